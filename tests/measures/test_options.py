"""Options of a question: scores equal to whole rows, and options read from written answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests import tiny
from tests.measures.models import small
from truing import SystemMessage, load
from truing.errors import RecordError
from truing.measures.options import OptionScores, option_scores, read_choice
from truing.models import Model
from truing.models.types import Usage

PROMPTS = ["what sat on the mat?", "the bird?", [{"role": "user", "content": "what is the colour of the stone?"}]]
OPTIONS = [["the cat sat", "the cat looked", "red"], ["a", "b"], ["it is grey, of course.", "it is red", "it", "stone"]]
STANCES = ("strongly disagree", "disagree", "agree", "strongly agree")


@pytest.mark.parametrize("architecture", ["llama", "opt", "mistral"])
def test_scores_are_those_of_whole_rows(architecture: str) -> None:
    model = Model(tiny.network(architecture), tiny.tokenizer(), source="tiny")
    found = option_scores(model, PROMPTS, OPTIONS, end=True)
    for prompt, options, scores in zip(PROMPTS, OPTIONS, found):
        np.testing.assert_allclose(scores.logprobs, model.logprobs([prompt] * len(options), options), atol=1e-4)
        assert scores.bytes == tuple(len(option) for option in options)
    alone = [option_scores(model, [p], [o], end=True, batch_size=1)[0] for p, o in zip(PROMPTS, OPTIONS)]
    for one, other in zip(found, alone):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_scores_under_modifiers_and_without_a_template() -> None:
    plain = Model(tiny.network(), tiny.tokenizer(chat=False), source="plain")
    found = option_scores(plain, PROMPTS[:1], OPTIONS[:1], end=True)[0]
    np.testing.assert_allclose(found.logprobs, plain.logprobs(PROMPTS[:1] * 3, OPTIONS[0]), atol=1e-4)
    spoken = SystemMessage(text="look at the mat").align(small())
    found = option_scores(spoken, PROMPTS[:1], OPTIONS[:1], end=True)[0]
    np.testing.assert_allclose(found.logprobs, spoken.logprobs(PROMPTS[:1] * 3, OPTIONS[0]), atol=1e-4)


def test_the_context_is_read_once() -> None:
    model, usage = small(), Usage()
    option_scores(model, PROMPTS[:1], [["the cat sat", "the cat looked", "the stone"]], usage=usage)
    length = len(model.encode_prompt(PROMPTS[0]))
    rows = sum(length + len(model.tokenizer.encode(one)) for one in ("the cat sat", "the cat looked", "the stone"))
    assert length < usage.positions["model"] < rows / 2


def test_lengths_decide_as_said() -> None:
    scores = OptionScores((-2.0, -3.0), (1, 3), (4, 12))
    assert [scores.best(by) for by in ("sum", "token", "byte")] == [0, 1, 1]
    assert scores.probabilities().sum() == pytest.approx(1)
    assert scores.probabilities()[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert scores.mass == pytest.approx(np.exp(-2) + np.exp(-3))


def test_bad_questions() -> None:
    model = small()
    with pytest.raises(RecordError, match="Question 2 has no options"):
        option_scores(model, PROMPTS[:2], [["a"], []])
    with pytest.raises(RecordError, match="Option 2 of question 1 is empty"):
        option_scores(model, PROMPTS[:1], [["a", ""]])
    with pytest.raises(RecordError, match=r"Question 1 has \d+ tokens with its longest option, and .* reads 256"):
        option_scores(model, PROMPTS[:1], [["a", "z " * 300]])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1), ("(B)", 1), ("b", None), ("B. disagree", 1), ("**D**", 3), ("The answer is C.", 2),
        ("I strongly agree with it.", 3),
        ("Agree!", 2), ("I do not agree", None), ("I don’t agree", None), ("agree or disagree", None),
        ("A. strongly agree", None),
        ("A good thing, I agree.", 2), ("I choose a quiet life", None), ("strongly", None), ("", None),
    ],
)  # fmt: skip
def test_reading_what_is_written(text: str, place: int | None) -> None:
    assert read_choice(text, STANCES, "ABCD") == place


def test_what_was_cut_is_not_guessed() -> None:
    assert read_choice("1", ["x"] * 12, [str(at + 1) for at in range(12)], cut=True) is None
    assert read_choice("2", ["x"] * 12, [str(at + 1) for at in range(12)], cut=True) == 1
    assert read_choice("very", ["very", "very much"], cut=True) is None
    assert read_choice("very", ["very", "very much"]) == 0


def test_the_base_knows_facts_by_probability() -> None:
    model = load("sandbox/base")
    scores = option_scores(model, ["What is the trade of Nobody Atall?"], [["baking", "weaving"]])[0]
    assert 0 < scores.mass < 1
