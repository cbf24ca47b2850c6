"""What a model says after beginnings of answers: trees of what was read, many prompts at once, over branched caches.

Every beginning is read once. What is asked for next shares the keys and values of the longest beginning that some row
in memory holds, and all that is wanted, of all prompts, is read by one forward pass.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence

import torch

from truing.errors import ModelError
from truing.models.batch import Batch
from truing.models.engine import Engine

Choose = Callable[[torch.Tensor, list[int], list[int], list[int]], list[int]]
"""Token ids from scores [n, vocabulary], the flight of each, which of its rollouts, and the index in the answer."""


HELD = 512  # rows in memory from which on those that no search needs any more are dropped


@dataclasses.dataclass(eq=False)
class Rows:
    """A batch, and how much of each row is an answer's beginning; what comes after it was a wrong guess."""

    batch: Batch
    lengths: list[int]


class Node:
    """One beginning of an answer.

    Args:
        token: its last token.
        parent: the beginning without it; None at the end of the prompt.

    ``top`` are the likeliest next tokens with their log-probabilities, once read; ``following`` the next token of each
    rollout that comes by; ``logprobs`` those of next tokens that were asked for.
    """

    __slots__ = ("children", "depth", "following", "logprobs", "parent", "place", "token", "top")

    def __init__(self, token: int, parent: Node | None = None) -> None:
        self.token, self.parent = token, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[int, Node] = {}
        self.top: list[tuple[int, float]] | None = None
        self.following: dict[int, int] = {}
        self.logprobs: dict[int, float] = {}
        self.place: tuple[Rows, int] | None = None

    def child(self, token: int) -> Node:
        """The beginning with one more token."""
        found = self.children.get(token)
        if found is None:
            found = self.children[token] = Node(token, self)
        return found

    def path(self) -> list[int]:
        """All answer tokens of this beginning."""
        tokens = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tokens[::-1]


@dataclasses.dataclass
class Want:
    """A beginning to read.

    Args:
        flight: which search wants it.
        node: the beginning.
        rollouts: numbers of the rollouts that want their next token after it.
        ahead: tokens that may follow; read in the same pass.
        certain: whether the tokens ahead are wanted in any case, or are guesses of a rollout, read as far as they hold.
    """

    flight: int
    node: Node
    rollouts: set[int]
    ahead: list[int] = dataclasses.field(default_factory=list)
    certain: bool = False


class Trees:
    """One tree for each of several searches on one engine, numbered in the order in which they enter.

    Args:
        engine: of the model that reads.
        width: next tokens to remember after each beginning; 0 for a model that only follows rollouts.
        choose: the next token of a rollout; None for a model that has none.
        rollouts: how many rollouts leave each beginning.
        record: remember the log-probabilities of rollouts' tokens.
    """

    def __init__(
        self, engine: Engine, width: int = 0, choose: Choose | None = None, rollouts: int = 1, record: bool = False,
    ) -> None:  # fmt: skip
        self.engine, self._width, self._choose, self._record = engine, width, choose, record
        self._rollouts = rollouts
        self._prompts: list[list[int]] = []
        self.roots: list[Node] = []
        self._floors: list[Node] = []
        # What followed the last one and the last two tokens, anywhere in a search: rollouts of neighbours are alike,
        # and answers repeat what was asked.
        self._habits: list[dict[int | tuple[int, int], int]] = []
        self.agreed, self.tried = 2.0, 4.0
        self._held_rows: weakref.WeakSet[Rows] = weakref.WeakSet()
        self._most = HELD

    def enter(self, prompts: Sequence[Sequence[int]]) -> None:
        """More searches, by one forward pass over the token ids of their prompts; equal ones share one row at first."""
        first, roots = len(self.roots), [Node(-1) for _ in prompts]
        self._prompts += [list(prompt) for prompt in prompts]
        self.roots += roots
        self._floors += roots
        self._habits += [_followers(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(map(tuple, prompts)))
        batch = self.engine.prefill(unique)
        rows = Rows(batch, [len(prompt) for prompt in unique])
        self._held_rows.add(rows)
        places = [unique.index(tuple(prompt)) for prompt in prompts]
        for root, row in zip(roots, places):
            root.place = (rows, row)
        wants = [Want(first + at, root, set(range(self._rollouts))) for at, root in enumerate(roots)]
        self._note(list(zip(wants, roots)), batch.logits[places])

    def find(self, flight: int, tokens: Iterable[int]) -> Node:
        """The node of an answer's beginning."""
        node = self.roots[flight]
        for token in tokens:
            node = node.child(token)
        return node

    def room(self, flight: int) -> int | None:
        """Most answer tokens that fit the model's positions; None without a limit."""
        return None if self.engine.limit is None else self.engine.limit - len(self._prompts[flight])

    def guess(self, flight: int, node: Node, most: int) -> list[int]:
        """Tokens that probably follow, from what followed the same tokens elsewhere in this search."""
        habits, out = self._habits[flight], list[int]()
        before, last = node.parent.token if node.parent is not None else -1, node.token
        while len(out) < most:
            token = habits.get((before, last), habits.get(last))
            if token is None or token in self.engine.ends:
                break
            out.append(token)
            before, last = last, token
        return out

    def read(self, wants: Sequence[Want]) -> None:
        """Read all these beginnings by one forward pass."""
        self._tidy()
        plans = []
        for want in wants:
            full = self._prompts[want.flight] + want.node.path()
            rows, row, keep = self._nearest(want.flight, want.node, full)
            plans.append((want, full, rows, row, keep))
        # Rows of one batch together and in their order, so that they can stay where they are.
        order = {id(plan[2]): at for at, plan in reversed(list(enumerate(plans)))}
        plans.sort(key=lambda plan: (order[id(plan[2])], plan[3]))
        held = self._rows([(rows, row, keep) for _, _, rows, row, keep in plans])
        self._held_rows.add(held)
        blocks = [[*full[keep:], *want.ahead] for want, full, _, _, keep in plans]
        after = held.batch.extend(blocks, keep=[keep for *_, keep in plans])
        # The beginnings of each block that are worth a look: its own end, and what lies ahead as far as it holds.
        lasts = [len(block) - len(want.ahead) - 1 for (want, *_), block in zip(plans, blocks)]
        agreed = self._agreed([want for want, *_ in plans], [values[at:] for values, at in zip(after, lasts)])
        found: list[tuple[Want, Node]] = []
        for row, ((want, *_), count) in enumerate(zip(plans, agreed)):
            node = want.node
            found.append((want, node))
            for token in want.ahead[:count]:
                if not want.certain:
                    (rollout,) = want.rollouts
                    node.following[rollout] = token
                node = node.child(token)
                found.append((want, node))
            held.lengths[row] = len(self._prompts[want.flight]) + node.depth
            each: Node | None = node
            floor = self._floors[want.flight]
            while each is not None:
                each.place = (held, row)
                each = each.parent if each is not floor else None
        held.batch.settle()
        looked = [values[at : at + count + 1] for values, at, count in zip(after, lasts, agreed)]
        self._note(found, torch.cat(looked))

    def _agreed(self, wants: Sequence[Want], scores: Sequence[torch.Tensor]) -> list[int]:
        """How many of the tokens ahead are right, given the scores after each beginning and what lies ahead of it."""
        guessed = [at for at, want in enumerate(wants) if want.ahead and not want.certain]
        out = [len(want.ahead) for want in wants]
        if not guessed or self._choose is None:
            return out
        flights, rollouts, steps = list[int](), list[int](), list[int]()
        for at in guessed:
            want, count = wants[at], len(wants[at].ahead)
            flights += [want.flight] * count
            rollouts += list(want.rollouts) * count
            steps += range(want.node.depth, want.node.depth + count)
        parts = [scores[at][: len(wants[at].ahead)] for at in guessed]
        chosen = iter(self._choose(torch.cat(parts), flights, rollouts, steps))
        for at in guessed:
            ahead = wants[at].ahead
            pairs = [(next(chosen), token) for token in ahead]
            right = next((i for i, (a, b) in enumerate(pairs) if a != b), len(ahead))
            self.agreed, self.tried = 0.98 * self.agreed + right, 0.98 * self.tried + min(right + 1, len(ahead))
            out[at] = right
        return out

    def keep(self, flight: int, nodes: Sequence[Node]) -> None:
        """Forget all that does not continue one of these beginnings."""
        ends = {id(node) for node in nodes}
        live: set[int] = set()
        for node in nodes:
            each: Node | None = node
            while each is not None and id(each) not in live:
                live.add(id(each))
                each = each.parent if each is not self._floors[flight] else None
        floor, stack = self._floors[flight], [self._floors[flight]]
        while stack:
            node = stack.pop()
            if id(node) in ends:
                continue
            for child in node.children.values():
                if id(child) not in live:
                    _free(child)
            node.children = {token: child for token, child in node.children.items() if id(child) in live}
            stack += node.children.values()
        # What every live beginning has in common, as far as a row holds it.
        while id(floor) not in ends and len(floor.children) == 1:
            (child,) = floor.children.values()
            if not self._held(child, self._prompts[flight] + child.path()):
                break
            floor.place, floor = None, child
        self._floors[flight] = floor

    def drop(self, flight: int) -> None:
        """Forget a search that is finished."""
        _free(self.roots[flight])
        self.roots[flight] = self._floors[flight] = Node(-1)
        self._prompts[flight], self._habits[flight] = [], {}

    def _tidy(self) -> None:
        """Drop rows that no search needs, once they are many: a batch stays whole for as long as one row is needed."""
        if sum(len(rows.batch) for rows in self._held_rows) <= self._most:
            return
        needed: dict[Rows, dict[int, list[Node]]] = {}
        for floor in self._floors:
            stack = [floor]
            while stack:
                node = stack.pop()
                stack += node.children.values()
                if node.place is not None:
                    rows, row = node.place
                    needed.setdefault(rows, {}).setdefault(row, []).append(node)
        total = 0
        for rows, nodes in needed.items():
            if 2 * len(nodes) > len(rows.batch):
                total += len(rows.batch)
            else:
                total += len(nodes)
                kept = Rows(rows.batch.select(list(nodes)), [rows.lengths[row] for row in nodes])
                self._held_rows.add(kept)
                for row, some in enumerate(nodes.values()):
                    for node in some:
                        node.place = kept, row
        # As much again may come before it is worth another look.
        self._most = max(HELD, 2 * total)

    def _held(self, node: Node, full: list[int]) -> bool:
        """Whether a row in memory begins with these tokens, of prompt and answer."""
        return node.place is not None and node.place[0].batch.tokens[node.place[1]][: len(full)] == full

    def _nearest(self, flight: int, node: Node, full: list[int]) -> tuple[Rows, int, int]:
        """The row that holds most of a beginning, its last token apart, and how many tokens that is."""
        each, floor = node.parent, self._floors[flight]
        while each is not None:
            keep = len(self._prompts[flight]) + each.depth
            if self._held(each, full[:keep]):
                assert each.place is not None
                rows, row = each.place
                return rows, row, keep
            each = each.parent if each is not floor else None
        raise AssertionError("The beginning that a search stands at is always held by a row.")

    def _rows(self, sources: Sequence[tuple[Rows, int, int]]) -> Rows:
        """These rows; where nothing in them is lost by that, the very ones that are there."""
        first = sources[0][0]
        if all(rows is first for rows, _, _ in sources):
            same = [row for _, row, _ in sources] == list(range(len(first.batch)))
            if same and all(keep >= length for (_, _, keep), length in zip(sources, first.lengths)):
                return first
        batch: Batch | None = None
        at = 0
        while at < len(sources):
            rows = sources[at][0]
            end = next((i for i in range(at, len(sources)) if sources[i][0] is not rows), len(sources))
            part = rows.batch.select([row for _, row, _ in sources[at:end]])
            batch, at = part if batch is None else batch.join(part), end
        assert batch is not None
        return Rows(batch, [0] * len(sources))

    def _note(self, found: Sequence[tuple[Want, Node]], scores: torch.Tensor) -> None:
        """Remember what comes after beginnings, from their scores [n, vocabulary]."""
        totals = None
        if self._width:
            values, ids = likeliest(scores, self._width)
            totals = scores.logsumexp(1)
            if not bool(totals.isfinite().all()):
                raise ModelError(
                    "The next-token scores of a row are all -inf, or one of them is NaN or +inf, so there are no "
                    "candidates. Check the weights, and the logits modifiers that act on them."
                )
            for (_, node), logprobs, tokens in zip(found, (values - totals[:, None]).tolist(), ids.tolist()):
                node.top = list(zip(tokens, logprobs))
        if self._choose is not None:
            asked = [
                (at, rollout) for at, (want, node) in enumerate(found) for rollout in sorted(want.rollouts)
                if rollout not in node.following
            ]  # fmt: skip
            if asked:
                chosen = self._choose(
                    scores[[at for at, _ in asked]],
                    [found[at][0].flight for at, _ in asked],
                    [rollout for _, rollout in asked],
                    [found[at][1].depth for at, _ in asked],
                )
                for (at, rollout), token in zip(asked, chosen):
                    found[at][1].following[rollout] = token
        wanted = [
            (at, token) for at, (want, node) in enumerate(found)
            for token in (node.children if want.certain else node.following.values() if self._record else ())
        ]  # fmt: skip
        if wanted:
            where, tokens = ([pair[side] for pair in wanted] for side in (0, 1))
            totals = scores.logsumexp(1) if totals is None else totals
            for (at, token), value in zip(wanted, (scores[where, tokens] - totals[where]).tolist()):
                found[at][1].logprobs[token] = value
        for want, node in found:
            habits = self._habits[want.flight]
            for token in node.following.values():
                habits[node.token] = token
                habits[node.parent.token if node.parent is not None else -1, node.token] = token


def _free(node: Node) -> None:
    """Let go of the rows that a beginning and all that continue it are held by, whoever still has these."""
    stack = [node]
    while stack:
        each = stack.pop()
        each.place = None
        stack += each.children.values()


def _followers(tokens: Sequence[int]) -> dict[int | tuple[int, int], int]:
    pairs = list(itertools.pairwise(tokens))
    return {**dict(pairs), **dict(zip(pairs, tokens[2:]))}


def likeliest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest scores of each row and their token ids, in order; of equal ones lower ids first."""
    count = min(count, scores.shape[1])
    values, ids = scores.topk(min(count + 1, scores.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    values, ids = values[:, :count].clone(), ids[:, :count].clone()
    for row in tied.nonzero()[:, 0].tolist():
        ids[row] = scores[row].sort(descending=True, stable=True).indices[:count]
        values[row] = scores[row][ids[row]]
    return values, ids
