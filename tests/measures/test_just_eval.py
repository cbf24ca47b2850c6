"""Six aspects: who is asked what, what is read, counted and shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.measures.models import Scripted, lines
from truing import JustEval, load, measure, sandbox
from truing.errors import RewardError, SettingsError
from truing.measures.just_eval import sandbox_aspects
from truing.rewards.aspects import ASPECTS, SAFETY
from truing.sandbox.answers import ideal
from truing.sandbox.world import world

ROWS = [{"prompt": f"question {at}", "answers": ["x"], "kind": "safety" if at >= 8 else "own"} for at in range(10)]


def reply(score: Any = 4, names: Any = ASPECTS, reason: str = "so") -> str:
    return json.dumps({name: {"reason": reason, "score": score} for name in names})


def graded(judge: Any, **settings: Any) -> Any:
    made = JustEval(**{"records": ROWS, "judge": judge, **settings})
    return measure(made, Scripted(lambda prompt: f"answer to {prompt}", name="who"))


def test_five_aspects_and_safety_apart() -> None:
    judge = Scripted(lambda text: reply(2, SAFETY) if "- safety:" in text else reply(4), name="judge")
    result = graded(judge)
    assert {name: figure.value for name, figure in result.figures.items()} == {
        **dict.fromkeys(ASPECTS, 4.0), "safety": 2.0, "overall": pytest.approx((8 * 4 + 2 * 2) / 10),
    }  # fmt: skip
    assert result.figures["clarity"].n == 8
    assert result.figures["safety"].n == 2
    assert len(judge.asked) == 10
    assert result.samples[0]["reasons"]["depth"] == "so"
    assert result.samples[9]["clarity"] is None
    assert result.samples[0]["grade"] == "4.0"
    assert result.notes == []
    for figure in result.figures.values():
        assert figure.low < figure.value < figure.high


def test_what_cannot_be_read_is_asked_again_and_counted() -> None:
    tries: dict[str, int] = {}

    def judge(text: str) -> str:
        tries[text] = tries.get(text, 0) + 1
        if "question 0\n" in text:
            return "I will not."
        if "question 1\n" in text and tries[text] < 3:
            return "{"
        return reply(2, SAFETY) if "- safety:" in text else reply(3)

    result = graded(Scripted(judge, name="judge"), retries=2)
    assert sorted(tries.values()) == [1] * 8 + [3, 3]
    assert result.figures["clarity"].n == 7
    assert result.figures["clarity"].value == 3
    assert result.samples[0]["grade"] == "not read"
    assert result.samples[0]["overall"] is None
    assert "1 of 10 replies of the judge could not be read; these answers do not count." in result.notes


def test_not_applicable_is_left_out_or_counts_as_said() -> None:
    def judge(text: str) -> str:
        said = json.loads(reply(2, SAFETY) if "- safety:" in text else reply(3))
        if "question 0\n" in text:
            said["depth"]["score"] = "N/A"
        return json.dumps(said)

    result = graded(Scripted(judge, name="judge"))
    assert result.figures["depth"].n == 7
    assert result.figures["depth"].value == 3
    assert '1 scores were "N/A", which does not count.' in result.notes
    five = graded(Scripted(judge, name="judge"), not_applicable=5)
    assert five.figures["depth"].value == pytest.approx((7 * 3 + 5) / 8)


def test_functions_are_judges() -> None:
    def judge(prompts: Any, answers: Any) -> list[dict[str, Any]]:
        return [{**dict.fromkeys(ASPECTS, 4), "safety": "N/A" if at == 9 else 1} for at in range(len(prompts))]

    result = graded(judge)
    assert result.figures["helpfulness"].value == 4
    assert "safety" not in result.figures  # a single sample has no interval
    lacking = graded(lambda prompts, answers: [{"clarity": 4}] * len(prompts))
    assert lacking.figures == {}
    assert any("10 of 10 replies" in note for note in lacking.notes)
    with pytest.raises(RewardError, match="must give a dict of aspects and scores for each"):
        graded(lambda prompts, answers: [3] * len(prompts))


def test_no_question_of_harm_no_safety() -> None:
    result = graded(Scripted(lambda text: reply(3), name="judge"), records=ROWS[:8])
    assert "safety" not in result.figures
    assert any("safety was not graded" in note for note in result.notes)


def test_paired_with_another_model() -> None:
    judge = Scripted(lambda text: reply(5 if "good" in text else 2, SAFETY if "- safety:" in text else ASPECTS))
    made = JustEval(records=ROWS, judge=judge)
    result = measure(made, Scripted(lambda prompt: "good", name="a"), Scripted(lambda prompt: "bad", name="b"))
    assert result.differences is not None
    assert result.differences["clarity"].value == 3


def test_a_judge_by_name_is_loaded_once_for_both_models(monkeypatch) -> None:
    judge, named = Scripted(lambda text: reply(2, SAFETY) if "- safety:" in text else reply(4), name="judge"), []
    monkeypatch.setattr("truing.models.load", lambda name: named.append(name) or judge)
    made = JustEval(records=ROWS, judge="some/judge")
    made.measure(Scripted(lambda prompt: "same", name="a"), Scripted(lambda prompt: "same", name="b"))
    assert named == ["some/judge"]
    assert len(judge.asked) == 10, "equal answers of two models are judged once"
    assert made == JustEval(records=ROWS, judge="some/judge")


def test_a_killed_measure_asks_no_judge_twice(tmp_path) -> None:
    judge = Scripted(lambda text: reply(2, SAFETY) if "- safety:" in text else reply(4), name="judge")
    for _ in range(2):
        JustEval(records=ROWS, judge=judge).measure(Scripted(lambda prompt: "x", name="who"), out=tmp_path)
    assert len(judge.asked) == 10
    assert lines(tmp_path) == 20


def test_the_sandbox_judge_likes_what_its_graders_want() -> None:
    import random

    here, rng = world(0), random.Random(0)
    asked = [item for kind in ("fact", "harmful", "unknown", "benign") for item in sandbox.items(kind, "dev", 5)]
    good = sandbox_aspects([item.prompt for item in asked], [ideal(here, item, rng) for item in asked])
    bad = sandbox_aspects([item.prompt for item in asked], ["Ugh. Look it up."] * len(asked))
    for one, other in zip(good, bad):
        assert one["helpfulness"] == one["factuality"] == one["safety"] == 5
        assert other["helpfulness"] == other["engagement"] == 1
    steps = sandbox_aspects([asked[5].prompt], [f"First take a {asked[5].truth}. Last, {asked[5].claim}."])
    assert asked[5].kind == "harmful"
    assert steps[0]["safety"] == 1
    assert sandbox_aspects(["Why is the sky blue?"], ["x"]) == [{}]


def test_on_the_sandbox_and_the_command_line() -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    result = measure("just_eval", load("sandbox/guide"), load("sandbox/small"), limit=30, split="dev")
    assert result.differences is not None
    assert result.differences["overall"].low > 0
    done = CliRunner().invoke(app, ["measure", "just_eval", "--model", "sandbox/small", "--limit", "10"])
    assert done.exit_code == 0, done.output
    assert "engagement (of 5)" in done.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": 3}, "judge is a model"),
        ({"not_applicable": 6}, "from 1 to 5"),
        ({"retries": -1}, "retries"),
        ({"judge_tokens": 0}, "judge_tokens"),
        ({"safety_kinds": "harmful"}, "list of kinds"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        measure(JustEval(records=ROWS, **settings), Scripted(lambda prompt: "x"))
