"""Models behind a server as one of two that write together: their tokens are pieces of text, numbered as they come.

A rule that works over token ids (`nudging_turns.nudge_by_word`) thus reads and writes for a remote model as for a local
one. What comes next depends on the text alone, so requests are saved: a proposal of the guide is one request, the
words of a proposal are tested by one request where the server echoes log-probabilities and by requests of one token
where it does not, and the base is asked for more tokens at a time the longer it stays sure.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from truing.errors import RemoteError
from truing.methods.decoding.nudging_turns import Ask, Side, Top, Turns
from truing.models.remote import RemoteModel
from truing.models.remote_completions import Completer, Written
from truing.models.types import Sampling, Usage

END = 0  # the number of the end of an answer
FAR = 1 << 30  # room of a model that does not say how much it reads, or reads any length
FIRST, MOST = 4, 16  # tokens that a base is asked for at first, and at most
LETTERS = 4  # of another model's word that count as one token of a server that does not say


class Pieces:
    """Pieces of text by number."""

    def __init__(self) -> None:
        self._texts, self._numbers = [""], {"": END}
        self._lock = threading.Lock()

    def number(self, text: str) -> int:
        """The number of a piece that is not empty."""
        with self._lock:
            if text not in self._numbers:
                self._numbers[text] = len(self._texts)
                self._texts.append(text)
            return self._numbers[text]

    def text(self, numbers: Sequence[int]) -> str:
        """The text that pieces join to."""
        return "".join([self._texts[number] for number in numbers])

    def encode(self, text: str) -> list[int]:
        """Pieces of another model's text, of the length of a usual token."""
        return [self.number(text[at : at + LETTERS]) for at in range(0, len(text), LETTERS)]

    def side(self) -> Side:
        """How a remote model reads and writes."""
        return Side(self.text, self.encode, frozenset({END}), FAR, END)


class RemoteReader:
    """Rows that a server continues; remembers what comes after each text it was asked about.

    Args:
        model: the remote model.
        prompts: the conversation of each row.
        usage: where requests and tokens are counted.
        who: the name they are counted under.
        pieces: the numbers of its pieces.
        ahead: tokens of one request, for a guide; None for a base, which is asked for more the longer it is sure.
        sampling: how a base's tokens are chosen; None is greedy.
        samples: which sample of its prompt each row is.
    """

    def __init__(
        self, model: RemoteModel, prompts: Sequence[Any], usage: Usage, who: str, pieces: Pieces,
        ahead: int | None = None, sampling: Sampling | None = None, samples: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.model = model
        self._pieces, self._ahead = pieces, ahead
        self._sampling = sampling if sampling is not None and sampling.temperature else None
        self._samples = samples
        self._server = Completer(model, usage, who)
        self._prompts = [self._server.text_of(prompt) for prompt in prompts]
        self._tops: list[dict[str, Top]] = [{} for _ in prompts]
        self._sizes = [FIRST] * len(prompts)
        self._ends = [""] * len(prompts)  # where the last continuation of a row stops
        self._tested: list[str | None] = [None] * len(prompts)

    def known(self, row: int, tokens: list[int]) -> Top | None:
        """What comes after these pieces, if it was asked for."""
        return self._tops[row].get(self._pieces.text(tokens))

    def lead(self, wanted: dict[int, Ask]) -> None:
        """Ask for what some rows do not know yet, concurrently."""
        if len(wanted) == 1:
            self._ask(*next(iter(wanted.items())))
            return
        all_of([functools.partial(self._ask, row, ask) for row, ask in wanted.items()], [self])

    def drop(self, rows: set[int]) -> None:
        """Forget rows that are finished."""
        for row in rows:
            self._tops[row].clear()

    def give_up(self) -> None:
        """Send nothing more."""
        self._server.give_up()

    def close(self) -> None:
        """End the connections."""
        self._server.close()

    def _ask(self, row: int, ask: Ask) -> None:
        text, tops = self._pieces.text(ask.tokens), self._tops[row]
        if ask.ahead and self._sampling is None and self._server.echoes:
            whole = text + self._pieces.text(ask.ahead)
            if self._tested[row] != whole:
                self._tested[row] = whole
                prompt = self._prompts[row]
                for at, (piece, top) in self._server.tested(prompt + whole, len(prompt + text)).items():
                    tops.setdefault(whole[: at - len(prompt)], Top(self._pieces.number(piece), top))
            if text in tops:
                return
        size = self._ahead or (1 if ask.ahead else self._size(row, text))
        found = self._write(row, text, size)
        while not found.pieces and not found.ended:
            # The first bytes of a character: no text yet.
            if size > MOST:
                raise RemoteError(f"{self.model.url} wrote {size} tokens that are no text. Look at the server's log.")
            size += FIRST
            found = self._write(row, text, size)
        for piece, top in zip(found.pieces, found.tops):
            tops.setdefault(text, Top(self._pieces.number(piece), top))
            text += piece
        if found.ended:
            tops.setdefault(text, Top(END, 1.0))
        if not ask.ahead:
            self._ends[row] = text

    def _size(self, row: int, text: str) -> int:
        """Twice as many tokens as last time where all of those were used, else few again."""
        self._sizes[row] = min(2 * self._sizes[row], MOST) if text and text == self._ends[row] else FIRST
        return self._sizes[row]

    def _write(self, row: int, text: str, size: int) -> Written:
        place = str(self._samples[row]) if self._samples else ""
        return self._server.write(self._prompts[row] + text, size, self._sampling, place)


def each(rules: Sequence[Turns], base: RemoteReader, guide: RemoteReader) -> list[str]:
    """Run one rule for each row to its end, each at its own pace; why each stopped."""
    readers = {"base": base, "guide": guide}

    def run(row: int) -> str:
        try:
            ask = next(rules[row])
            while True:
                top = readers[ask.who].known(row, ask.tokens)
                if top is None:
                    readers[ask.who].lead({row: ask})
                    top = readers[ask.who].known(row, ask.tokens)
                    assert top is not None
                ask = rules[row].send(top)
        except StopIteration as end:
            return str(end.value)

    return all_of([functools.partial(run, row) for row in range(len(rules))], [base, guide])


def all_of(tasks: Sequence[Callable[[], Any]], readers: Sequence[RemoteReader]) -> list[Any]:
    """The results of tasks that ask servers, as many at a time as those allow.

    Raises:
        TruingError: of the first that failed; the others send nothing more.
    """
    pool = ThreadPoolExecutor(min(len(tasks), *(reader.model.concurrency for reader in readers)))
    try:
        futures = [pool.submit(task) for task in tasks]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return [future.result() for future in futures]
    except BaseException:
        for reader in readers:
            reader.give_up()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
