"""What alignment changed, token by token: how an aligned model's choices rank under its base (Lin et al. 2024)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from truing.contracts import is_number, is_whole, require
from truing.errors import ModelError, SettingsError, UnsupportedError
from truing.measures import statistics
from truing.measures.asking import Asking, Context, search_notes, without_search
from truing.measures.hhh import KINDS
from truing.measures.journal import key_of
from truing.measures.result import Column, Curve, Figure, Outcome
from truing.measures.shifts import CLASSES, Likeness, likeness, ranks, shift_class
from truing.models.engine import Engine
from truing.models.local import same_vocabulary
from truing.models.types import Sampling, Usage

if TYPE_CHECKING:
    from truing.models import AnyModel

# Scores of one batch, [rows, tokens, vocabulary], that are held at a time.
_MOST_SCORES = 50_000_000
BINS = 10


class TokenShift(Asking):
    """How far an aligned model's choices are from those of the model it was made from, token by token.

    The aligned model answers greedily; its tokens, end token included, are kept as ids. Each is then looked up in what
    the other model would write after the same beginning, in one pass over each answer: rank 1 is unshifted, 2 or 3
    marginal, beyond shifted. Shares are over all tokens, with exact intervals at the effective size, answers being
    clusters. ``shifted_early`` is the share among the first fifth of an answer's tokens, ``shifted_late`` among the
    rest; a drawing has each class by tenths. ``argmax_differs`` is how often the aligned model itself, asked in that
    one pass, would choose another token than it wrote: ties and rounding. Notes hold the commonest tokens of the
    classes, and how often the base is unsure at shifted positions and at others, which tells where nudging would act.

    Each model reads the prompt through its own prompt modifiers, so the two may have different ones (a base with
    URIAL). Steering and logits modifiers act. A search's answers are taken as they are.

    Source: Lin, Ravichander, Lu et al., "The Unlocking Spell on Base LLMs", ICLR 2024.

    Args:
        records: prompts of your own instead of questions of all kinds of the sandbox.
        top: also compare the lists of that many likeliest tokens (the paper takes 50): Jaccard, the divergence over
            shared tokens, nDCG, and the probability that the aligned choice lost. None to leave them out.
        unsure: the base is unsure where its highest probability is below this; nudging's ``gamma``.
        temperature: must stay 0: what is looked at are the likeliest tokens.
    """

    top: int | None = None
    unsure: float = 0.4

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    paper: ClassVar[int | None] = 6
    gives: ClassVar[tuple[str, ...]] = (
        *CLASSES, "shifted_early", "shifted_late", "argmax_differs", "jaccard", "kl_shared", "ndcg", "lost",
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            self.top is None or (is_whole(self.top) and self.top >= 1),
            f"top is a number of tokens, at least 1, or None, not {self.top!r}.",
        )
        require(
            is_number(self.unsure) and 0 <= self.unsure <= 1,
            f"unsure is a probability, not {self.unsure!r}.",
        )
        require(
            self.temperature == 0,
            f"Token shift looks at greedy answers; temperature must be 0, not {self.temperature}.",
        )

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        aligned: Any = model
        base: Any = context.against
        if base is None:
            raise SettingsError(
                "Token shift compares two models. Give the one that it was made from too: "
                'measure("token_shift", aligned, against=base).'
            )
        if not same_vocabulary(aligned, base):
            raise UnsupportedError(
                f"Token shift looks up the tokens of one model in the other, and {model.name} and {base.name} have "
                "different vocabularies. Compare with the model it was made from."
            )
        questions, sampling = self.rows(KINDS), self.sampling()
        common = {"base": context.origin(base), "max_new_tokens": sampling.max_new_tokens, "top": self.top}
        keys = [{"token_shift": row["prompt"], **common} for row in questions]
        looked = _Look(aligned, base, self.top, sampling, context)

        def work(rows: list[int]) -> list[Any]:
            return looked.at([questions[row]["prompt"] for row in rows])

        batch = max(1, min(64, _MOST_SCORES // (len(aligned.tokenizer) * sampling.max_new_tokens)))
        found = context.compute(context.origin(model), keys, work, f"{model.name} and {base.name}", batch)
        rows = [_row(question, *each) for question, each in zip(questions, found)]
        notes = search_notes("What follows after each token", base)
        if looked.searches:
            notes += [f"The answers are those of {model.name}'s search, so `argmax_differs` is left out."]
        cut = sum(row["cut"] for row in rows)
        if cut:
            notes.append(f"{cut} answers of {model.name} reached the limit of {sampling.max_new_tokens} tokens.")
        notes += _common(rows) + _unsure(rows, self.unsure)
        return Outcome(rows, _columns(self.top, looked.searches), notes, curves=_curves(rows))


def _columns(top: int | None, searches: bool) -> dict[str, Column]:
    def counted(name: str, weight: str, null: float) -> Column:
        return Column(name, better="neither", statistic="pooled_share", weight=weight, null=null)

    columns = {name: counted(name, "length", float(name == "unshifted")) for name in CLASSES}
    columns |= {f"shifted_{part}": counted(f"shifted_{part}", f"length_{part}", 0.0) for part in ("early", "late")}
    if not searches:
        columns["argmax_differs"] = counted("argmax_differs", "length", 0.0)
    if top is not None:
        for name, unit, null in (
            ("jaccard", "of 1", 1.0), ("kl_shared", "nats", 0.0), ("ndcg", "of 1", 1.0), ("lost", "probability", 0.0),
        ):  # fmt: skip
            columns[name] = Column(name, unit, "neither", "ratio", weight="length", null=null)
    return columns


class _Look:
    """Answers of the aligned model, and what both models think of each of their tokens."""

    def __init__(self, model: Any, base: Any, top: int | None, sampling: Sampling, context: Context) -> None:
        self._model, self._base, self._top, self._sampling, self._context = model, base, top, sampling, context
        self._usage = Usage()
        defined = without_search(model)
        self.searches = defined is not model
        # One engine each for all batches, so that a beginning which prompts share is read once.
        self._own = Engine(defined, self._usage)
        self._other = Engine(without_search(base), self._usage, "base")

    @torch.inference_mode()
    def at(self, prompts: Sequence[Any]) -> list[Any]:
        """For each prompt: answer, whether it was cut, texts of its tokens, their ranks, the base's highest
        probability before each, how many the aligned model would choose otherwise, and sums over top lists."""
        answers = self._model.generate(list(prompts), **_asked(self._sampling))
        tokens = [answer.tokens for answer in answers]
        theirs = _forced(self._other, [self._other.model.encode_prompt(prompt) for prompt in prompts], tokens)
        mine: list[torch.Tensor | None] = [None] * len(prompts)
        if not self.searches or self._top is not None:
            mine = list(_forced(self._own, [self._own.model.encode_prompt(prompt) for prompt in prompts], tokens))
        self._context.usage += answers.usage + self._usage
        self._usage.calls.clear()
        self._usage.positions.clear()
        return [self._one(*each) for each in zip(answers, theirs, mine)]

    def _one(self, answer: Any, base: torch.Tensor, aligned: torch.Tensor | None) -> list[Any]:
        chosen = torch.tensor(answer.tokens, dtype=torch.long, device=base.device)
        if bool(base.isnan().any()):
            raise ModelError(f"The next-token scores of {self._base.name} are NaN. Check its weights and modifiers.")
        differs = 0 if aligned is None or self.searches else int((aligned.argmax(1) != chosen).sum())
        sums = [0.0] * 4
        if self._top is not None and aligned is not None:
            sums = _summed(base, aligned, self._top)
        return [
            answer.text, answer.finish_reason == "length",
            [self._model.tokenizer.decode([token]) for token in answer.tokens],
            ranks(base, chosen).tolist(), [round(p, 4) for p in base.softmax(1).amax(1).tolist()], differs, sums,
        ]  # fmt: skip


def _asked(sampling: Sampling) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(sampling).items() if name != "n"}


def _forced(engine: Engine, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Scores before each token of answers, [tokens, vocabulary] each, by one pass over prompts and one over answers."""
    batch = engine.prefill(prompts)
    before = batch.logits
    after = batch.extend([answer[:-1] for answer in answers])
    return [torch.cat([before[at : at + 1], scores])[: len(answers[at])] for at, scores in enumerate(after)]


def _summed(base: torch.Tensor, aligned: torch.Tensor, top: int) -> list[float]:
    """Sums over positions of Jaccard, divergence, nDCG, and probability lost by the aligned choice."""
    size = min(top, base.shape[1])
    lists = [
        [list(zip(tokens, values)) for tokens, values in zip(found.indices.tolist(), found.values.tolist())]
        for found in (base.topk(size, dim=1), aligned.topk(size, dim=1))
    ]
    alike: list[Likeness] = [likeness(one, other, size) for one, other in zip(*lists)]
    own = [likeness(other, other, size).top_prob for other in lists[1]]
    return [
        sum(each.jaccard for each in alike), sum(each.kl for each in alike), sum(each.ndcg for each in alike),
        sum(own) - sum(each.top_prob for each in alike),
    ]  # fmt: skip


def _row(
    question: dict[str, Any], answer: str, cut: bool, tokens: list[str], found: list[int], tops: list[float],
    differs: int, sums: list[float],
) -> dict[str, Any]:  # fmt: skip
    names = [shift_class(rank) for rank in found]
    early = -(-len(found) // 5)
    row = {key: question[key] for key in ("id", "kind", "prompt")}
    row |= {"cluster": key_of(question["prompt"]), "answer": answer, "cut": bool(cut)}
    row |= {"tokens": tokens, "ranks": found, "base_top": tops, "length": len(found)}
    row |= {name: names.count(name) for name in CLASSES}
    row |= {"shifted_early": names[:early].count("shifted"), "length_early": early}
    row |= {"shifted_late": names[early:].count("shifted"), "length_late": len(found) - early}
    row |= {"argmax_differs": differs, "grade": f"{names.count('shifted')} of {len(found)} shifted"}
    row |= dict(zip(("jaccard", "kl_shared", "ndcg", "lost"), sums))
    return row


def _curves(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """The share of each class by tenths of an answer."""
    counts = {name: [[0] * len(rows) for _ in range(BINS)] for name in CLASSES}
    totals = [[0] * len(rows) for _ in range(BINS)]
    for at, row in enumerate(rows):
        for place, rank in enumerate(row["ranks"]):
            where = place * BINS // row["length"]
            totals[where][at] += 1
            counts[shift_class(rank)][where][at] += 1
    clusters = [row["cluster"] for row in rows]
    curves = []
    for name in CLASSES:
        points = []
        for where in range(BINS):
            found = statistics.pooled_share(counts[name][where], totals[where], clusters)
            if found is not None:
                points.append((100.0 * where / BINS, Figure(*found[:5], better="neither")))
        curves.append(Curve(f"{name} tokens", "% of the answer", points))
    return curves


def _common(rows: Sequence[dict[str, Any]], most: int = 8) -> list[str]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
    for row in rows:
        for text, rank in zip(row["tokens"], row["ranks"]):
            counts[shift_class(rank)][text] += 1
    return [
        f"Commonest {name} tokens: {', '.join(f'{text!r} {count}' for text, count in counts[name].most_common(most))}."
        for name in reversed(CLASSES)
        if counts[name]
    ]


def _unsure(rows: Sequence[dict[str, Any]], gamma: float) -> list[str]:
    """Where the base is unsure, among shifted positions and among the others."""
    parts = []
    for words, wanted in (("shifted", True), ("other", False)):
        places = [
            [top < gamma for top, rank in zip(row["base_top"], row["ranks"]) if (rank > 3) == wanted] for row in rows
        ]
        found = statistics.pooled_share([sum(one) for one in places], [len(one) for one in places])
        if found is not None:
            low, value, high = (f"{100 * end:.1f}" for end in (found.low, found.value, found.high))
            parts.append(f"{value} % [{low}, {high}] of {words} positions")
    return [f"The base is unsure (highest probability below {gamma:g}) at {' and '.join(parts)}."] if parts else []
