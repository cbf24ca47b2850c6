"""Whether an answer is the right one word for word, once case, punctuation and articles are set aside."""

from __future__ import annotations

import collections
import string
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import regex

from truing.contracts import is_number, require
from truing.errors import RecordError, SettingsError
from truing.measures.asking import Context, Questionnaire, sandbox_questions
from truing.measures.journal import key_of
from truing.measures.result import Column, Outcome
from truing.rewards.verifiable import last_match

IGNORED = ("case", "punctuation", "articles")
KINDS = ("fact", "context")
# The sandbox's models answer in whole sentences: "The dish of … is pancakes."
SANDBOX_VALUE = r" is ([^.]+)"

_ARTICLES = regex.compile(r"\b(?:a|an|the)\b", regex.IGNORECASE)


class ExactMatch(Questionnaire):
    """How often an answer equals one of the right ones, and the F1 of their words.

    Both texts are brought to one form first, as SQuAD's own script does; spaces count as one. A text keeps its
    punctuation or articles where nothing would be left without them, so that the answer "A" of a list of options stays.
    ``exact_match`` is 1 where the forms are equal, ``f1`` the harmonic mean of precision and recall of the words, which
    count as often as they stand there; of several right answers the best counts. Rows that share a prompt are one
    cluster.

    On the sandbox: facts and notes; the right answer is the value, taken out of the model's sentence.

    Source: Rajpurkar et al. 2016, section 6.1.

    Args:
        records: question records (``prompt``, ``answers``) instead of the sandbox's questions.
        extract: a regular expression that takes the answer out of the text: its last match counts, or the last group 1
            where it has a group. A text without a match is not right, and a note counts them. None takes all the text.
        ignore: what makes no difference: any of "case", "punctuation" (which makes -5 and 5 equal; for numbers see the
            reward `verifiable`) and "articles" (a, an, the).
        seconds: most time for the expression on one answer.
    """

    gives: ClassVar[tuple[str, ...]] = ("exact_match", "f1")

    extract: str | None = None
    ignore: Sequence[str] = IGNORED
    seconds: float = 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            not isinstance(self.ignore, str) and set(self.ignore) <= set(IGNORED),
            f"ignore is a list of any of {', '.join(IGNORED)}, not {self.ignore!r}.",
        )
        require(is_number(self.seconds) and self.seconds > 0, f"seconds is a time above 0, not {self.seconds!r}.")
        if self.extract is not None:
            require(
                isinstance(self.extract, str) and bool(self.extract),
                f"extract is a regular expression or None, not {self.extract!r}.",
            )
            try:
                regex.compile(self.extract)
            except regex.error as error:
                raise SettingsError(f"extract {self.extract!r} is no regular expression: {error}.") from None

    def questions(self) -> list[dict[str, Any]]:
        """Those with right answers."""
        if self.records is None:
            rows = sandbox_questions(KINDS, self.split, self.limit, self.seed)
            return [{**row, "answers": [row["item"].truth]} for row in rows]
        found = self.rows(KINDS)
        for row in found:
            check_answers(row, "ExactMatch")
        return found

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """Which answers are right."""
        pattern = SANDBOX_VALUE if self.extract is None and self.records is None else self.extract
        out, lost = answered, 0
        for at, row in enumerate(answered):
            found = row["answer"] if pattern is None else last_match(pattern, row["answer"], self.seconds)
            lost += found is None
            exact, f1 = (False, 0.0) if found is None else match(found, row["answers"], self.ignore)
            # In the place of what it is made from: a million rows of both would not fit.
            out[at] = {
                **{key: row[key] for key in ("id", "kind", "prompt", "answer", "words", "answers")},
                "cluster": key_of(row["prompt"]), "taken": found, "exact_match": exact, "f1": f1,
                "grade": "not found" if found is None else "right" if exact else "wrong",
            }  # fmt: skip
        if lost:
            notes.append(f"`extract` found no answer in {lost} of {len(out)} texts; they are not right.")
        columns = {"exact_match": Column("exact_match"), "f1": Column("f1", statistic="mean", bounds=(0.0, 1.0))}
        return Outcome(out, columns, notes)


def check_answers(row: dict[str, Any], what: str) -> None:
    """Raise `RecordError` unless a question has right answers, each a text that is not empty."""
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise RecordError(
            f"{what} compares with right answers, and the column `answers` of {row['id']} is {str(answers)[:80]!r}. "
            'Give rows such as {"prompt": "...", "answers": ["..."]}.'
        )


def match(text: str, answers: Sequence[str], ignore: Collection[str] = IGNORED) -> tuple[bool, float]:
    """Whether a text equals one of the right answers in form, and its best F1 of words with one of them.

    Args:
        text: an answer.
        answers: at least one right answer.
        ignore: as in `ExactMatch`.
    """
    said = form(text, ignore)
    right = [form(one, ignore) for one in answers]
    return said in right, max(f1_of_words(said, one) for one in right)


def form(text: str, ignore: Collection[str] = IGNORED) -> str:
    """A text as it is compared: one space between words, without what is ignored."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        kept = "".join(one for one in text if not _punctuation(one))
        text = " ".join(kept.split()) or text
    if "articles" in ignore:
        text = " ".join(_ARTICLES.sub(" ", text).split()) or text
    return text


def f1_of_words(one: str, other: str) -> float:
    """The harmonic mean of the shares of words of each text that the other has, from 0 to 1; 1 where both are empty."""
    first, second = one.split(), other.split()
    if not first or not second:
        return float(first == second)
    common = sum((collections.Counter(first) & collections.Counter(second)).values())
    return 2 * common / (len(first) + len(second))


def _punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
