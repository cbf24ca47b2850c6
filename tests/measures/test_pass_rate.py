"""pass@k and pass^k: closed forms, counting by hand, paired models, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import truing as tr
from tests.measures.models import Scripted, lines
from truing.cli.app import app
from truing.errors import RecordError, RewardError, SettingsError
from truing.measures.pass_rate import pass_all, pass_at
from truing.models.types import Completion, Completions, Usage
from truing.runs import run

ROWS = [{"prompt": str(at), "answers": ["yes"]} for at in range(3)]
PLAIN = [{"prompt": "a", "completion": "b"}, {"prompt": "b", "completion": "b"}]


@dataclasses.dataclass(eq=False)
class Sampled(Scripted):
    """Says yes in the first so many samples of a prompt, as its answer function counts."""

    def generate(self, prompts: Any, *, n: int = 1, **settings: Any) -> Completions:
        found = []
        for index, prompt in enumerate(prompts):
            self.asked.append(prompt)
            yes = int(self.answer(prompt))
            found += [Completion("yes" if at < yes else "no", finish_reason="stop", prompt_index=index)
                      for at in range(n)]  # fmt: skip
        return Completions(found, Usage(calls={"model": 1}))


@pytest.mark.parametrize(("n", "passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 4), (6, 6, 2), (4, 3, 2), (7, 1, 7)])
def test_both_equal_counting_all_subsets(n: int, passed: int, k: int) -> None:
    outcomes = [True] * passed + [False] * (n - passed)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at(n, passed, k) == pytest.approx(sum(any(some) for some in subsets) / len(subsets))
    assert pass_all(n, passed, k) == pytest.approx(sum(all(some) for some in subsets) / len(subsets))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_both_are_unbiased(p: float) -> None:
    n = 9
    weights = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    for k in range(1, n + 1):
        assert sum(w * pass_at(n, c, k) for c, w in enumerate(weights)) == pytest.approx(1 - (1 - p) ** k)
        assert sum(w * pass_all(n, c, k) for c, w in enumerate(weights)) == pytest.approx(p**k)


def test_figures_by_hand() -> None:
    model = Sampled(lambda prompt: {"0": "0", "1": "2", "2": "4"}[prompt])
    result = tr.measure("pass_rate", model, records=ROWS, samples=4, ks=[1, 2, 4])
    assert {name: figure.value for name, figure in result.figures.items()} == {
        "pass@1": pytest.approx((0 + 0.5 + 1) / 3), "pass@2": pytest.approx((0 + 5 / 6 + 1) / 3),
        "pass@4": pytest.approx(2 / 3), "pass^2": pytest.approx((0 + 1 / 6 + 1) / 3), "pass^4": pytest.approx(1 / 3),
    }  # fmt: skip
    assert {figure.n for figure in result.figures.values()} == {3}
    assert {figure.method for figure in result.figures.values()} == {"bootstrap"}
    assert all(0 <= figure.low < figure.value < figure.high <= 1 for figure in result.figures.values())
    assert [row["grade"] for row in result.samples] == ["0 of 4", "2 of 4", "4 of 4"]
    assert [one["reward"] for one in result.samples[1]["tries"]] == [1, 1, 0, 0]


def test_all_or_nothing_leaves_room() -> None:
    for yes in ("0", "4"):
        result = tr.measure("pass_rate", Sampled(lambda prompt, yes=yes: yes), records=ROWS, samples=4, ks=[1, 4])
        for figure in result.figures.values():
            assert figure.value == (yes == "4")
            assert figure.high - figure.low > 0.3


def test_any_reward_and_threshold() -> None:
    def letters(prompts: Any, responses: Any) -> list[int]:
        return [len(response) for response in responses]

    model = Sampled(lambda prompt: "1")
    settings: dict[str, Any] = {"records": PLAIN, "samples": 2, "ks": [1]}
    found = {
        threshold: tr.measure("pass_rate", model, reward=letters, threshold=threshold, **settings).figures["pass@1"]
        for threshold in (1.5, 2, 3)
    }
    # "yes" is 3 letters and "no" is 2; what passes is above the threshold, not at it.
    assert [found[threshold].value for threshold in (1.5, 2, 3)] == [1, 0.5, 0]
    bound = tr.measure("pass_rate", model, records=ROWS, reward=tr.Verifiable(extract="text"), samples=2, ks=[2])
    assert bound.figures["pass@2"].value == 1
    with pytest.raises(RewardError, match="nan"):
        tr.measure("pass_rate", model, reward=lambda p, r: [float("nan")] * len(r), **settings)


def test_paired_and_asked_once(tmp_path: Any) -> None:
    good, bad = Sampled(lambda prompt: "4", name="good"), Sampled(lambda prompt: "1", name="bad")
    for _ in range(2):
        result = tr.PassRate(records=ROWS, samples=4, ks=[1]).measure(good, bad, out=tmp_path)
    assert result.differences is not None
    assert result.differences["pass@1"].value == pytest.approx(0.75)
    assert len(good.asked) == len(bad.asked) == 3
    assert lines(tmp_path) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ks": [9]}, r"\[9\] cannot be estimated"),
        ({"ks": [0]}, r"\[0\] cannot be estimated"),
        ({"ks": []}, "list of whole numbers"),
        ({"ks": 3}, "list of whole numbers"),
        ({"samples": 0}, "samples"),
        ({"temperature": 0.0}, "all equal"),
        ({"threshold": float("nan")}, "threshold"),
        ({"reward": 3}, "reward"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        tr.measure("pass_rate", Sampled(lambda prompt: "1"), records=ROWS, **settings)


def test_questions_without_answers_need_a_reward() -> None:
    with pytest.raises(RecordError, match="`answers` of row-1"):
        tr.measure("pass_rate", Sampled(lambda prompt: "1"), records=PLAIN)


def test_one_question_has_no_interval() -> None:
    result = tr.measure("pass_rate", Sampled(lambda prompt: "1"), records=ROWS[:1], samples=2, ks=[1])
    assert result.figures == {}
    assert any("one sample tells nothing" in note for note in result.notes)


def test_on_the_sandbox_and_the_command_line() -> None:
    model = tr.load("sandbox/small")
    result = tr.measure("pass_rate", model, limit=6, samples=4, ks=[1, 4])
    assert result.figures["pass^4"].value <= result.figures["pass@1"].value <= result.figures["pass@4"].value
    again = tr.measure("pass_rate", model, limit=3, samples=4, ks=[1, 4])
    assert [row["tries"] for row in again.samples] == [row["tries"] for row in result.samples[:3]]
    done = CliRunner().invoke(
        app, ["measure", "pass-rate", "--model", "sandbox/small", "--limit", "3", "--samples", "2", "--ks", "[1, 2]"]
    )
    assert done.exit_code == 0, done.output
    assert "pass^2" in done.output


def test_the_recipe_tells_knowing_from_saying(tmp_path: Path) -> None:
    changes = [f"{name}.limit={limit}" for name, limit in (("multiple_choice", 48), ("exact_match", 24),
                                                           ("pass_rate", 6), ("perplexity", 8))]  # fmt: skip
    figures = run("right-answers", out=tmp_path / "run", overrides=changes).results
    knows = figures["multiple_choice"].figures
    assert knows["accuracy"].low > knows["accuracy_unknown"].high
    assert knows["accuracy_unknown"].low < 0.25 < knows["accuracy_unknown"].high
    wrote = figures["exact_match"].figures["exact_match"]
    assert wrote.low < knows["accuracy"].high
    assert knows["accuracy"].low < wrote.high
    tries = figures["pass_rate"].figures
    assert tries["pass@8"].value >= tries["pass@1"].value >= tries["pass^8"].value
