"""Tournaments over given answers, given probabilities and models."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.measures.models import Scripted, lines
from tests.shared import DATA
from truing import Tournament, measure
from truing.cli.app import app
from truing.errors import RecordError, RewardError, SettingsError
from truing.rewards.judge import Judge

REAL = DATA / "alpaca_eval"


def rows(answers: dict[str, Any], prompts: int = 8) -> list[dict[str, Any]]:
    """Each model's answer to each prompt; a function of the prompt's number, or one text."""
    return [
        {"prompt": f"question {at}", "model": name, "answer": said(at) if callable(said) else said}
        for at in range(prompts)
        for name, said in answers.items()
    ]


def letters(prompts: Sequence[Any], answers: Sequence[str]) -> np.ndarray:
    """A reward: longer is better."""
    return np.array([float(len(answer)) for answer in answers])


ASKED: list[Any] = []
"""What judges were asked. A judge is known by its settings, so it cannot keep count itself."""


class Longer:
    """A judge that prefers the longer answer."""

    def __init__(self, verdict: Any = None) -> None:
        self.verdict = verdict

    def prefer(self, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[Any]:
        ASKED.extend(prompts)
        if self.verdict is not None:
            return [self.verdict(one, two) for one, two in zip(first, second)]
        return ["first" if len(one) > len(two) else "second" for one, two in zip(first, second)]


FOUR = {"a": "xxxx", "b": "xxx", "c": "xx", "d": "x"}


def test_the_best_wins_every_bracket_and_all_is_shown() -> None:
    result = measure(Tournament(judge=letters, answers=rows(FOUR)))
    figures = result.figures
    assert [name for name in figures if name.startswith("rating/")] == [f"rating/{name}" for name in "abcd"]
    assert sum(figures[f"rating/{name}"].value for name in "abcd") == pytest.approx(4000)
    assert figures["win_rate/a"].value == 1
    assert figures["win_rate/a"].high == 1
    assert figures["win_rate/a"].low < 0.9
    assert figures["rank/d"].value == 4
    assert figures["longer"].value == 1
    assert "first_place" not in figures, "a reward shows no order"
    assert len(result.samples) == 8 * 3
    assert figures["beats/a/b"].value == 1
    assert [row["winner"] for row in result.samples if row["round"] == 2] == ["a"] * 8
    assert result.grids[0].rows[0][0] == f"a ({figures['rating/a'].n})"
    assert any("won or lost all their matches" in note for note in result.notes)
    assert any("8 prompts are few" in note for note in result.notes)
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
    again = measure(Tournament(judge=letters, answers=rows(FOUR)))
    assert again.samples == result.samples


def test_a_judge_sees_each_match_once_in_a_drawn_order(tmp_path: Path) -> None:
    ASKED.clear()
    for _ in range(2):
        result = Tournament(judge=Longer(), answers=rows(FOUR, 40)).measure(out=tmp_path)
    assert len(ASKED) == 40 * 3, "and what is journaled is not asked again"
    assert lines(tmp_path) == 120
    assert {row["order"] for row in result.samples} == {"a first", "b first"}
    assert result.figures["first_place"].low < 0.5 < result.figures["first_place"].high
    ranked = [name for name in result.figures if name.startswith("rating/")]
    assert ranked == [f"rating/{name}" for name in "abcd"]


def test_a_judge_that_leans_is_found_and_both_orders_make_ties() -> None:
    leaning = Longer(lambda one, two: "first")
    once = measure(Tournament(judge=leaning, answers=rows(FOUR, 60)))
    assert once.figures["first_place"].value == 1
    ratings = [figure for name, figure in once.figures.items() if name.startswith("rating/")]
    assert sum(one.low < 1000 < one.high for one in ratings) >= 3, "its verdicts are coins"
    twice = measure(Tournament(judge=leaning, answers=rows(FOUR, 60), both_orders=True))
    assert {row["winner"] for row in twice.samples} == {"tie"}
    assert any("180 matches got another verdict in the other order" in note for note in twice.notes)
    assert any("nothing to rank by" in note for note in twice.notes)
    assert [figure.value for name, figure in twice.figures.items() if name.startswith("rating/")] == [1000] * 4


def test_unreadable_verdicts_count_for_nothing() -> None:
    def some(one: str, two: str) -> Any:
        return None if "b" in one + two else "first" if one > two else "second"

    answers = rows({"b": "b", "x": "x", "y": "y"}, 50)
    result = measure(Tournament(judge=Longer(some), answers=answers))
    lost = [row for row in result.samples if row["winner"] is None]
    assert lost
    assert all("b" in (row["a"], row["b"]) for row in lost)
    assert any(f"{len(lost)} matches had a verdict that could not be read" in note for note in result.notes)
    assert "win_rate/b" not in result.figures
    with pytest.raises(RewardError, match="No verdict could be read"):
        measure(Tournament(judge=Longer(lambda one, two: None), answers=answers))
    with pytest.raises(RewardError, match="It must give"):
        measure(Tournament(judge=Longer(lambda one, two: "A"), answers=answers))


def test_empty_and_failed_answers_lose_and_equal_ones_tie_unasked() -> None:
    ASKED.clear()
    answers = rows({"good": "yes", "empty": " ", "failed": None, "same": "yes "}, 30)
    result = measure(Tournament(judge=Longer(), answers=answers))
    assert not ASKED
    for row in result.samples:
        pair = {row["a"], row["b"]}
        if pair in ({"good", "same"}, {"empty", "failed"}):
            assert row["winner"] == "tie"
        else:
            assert row["winner"] in ("good", "same")
    assert any("had an empty or failed answer" in note for note in result.notes)
    assert any("between equal answers" in note for note in result.notes)


def test_a_reward_by_name_through_the_command_line_and_forms_of_files(tmp_path: Path) -> None:
    long, wide, folder = tmp_path / "long.jsonl", tmp_path / "wide.jsonl", tmp_path / "many"
    found = rows(FOUR)
    long.write_text("".join(json.dumps(row) + "\n" for row in found))
    wide.write_text("".join(json.dumps({"instruction": f"question {at}", "outputs": FOUR}) + "\n" for at in range(8)))
    folder.mkdir()
    for name, text in FOUR.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({"instruction": f"question {at}", "source": "", "task": "t", "generated": text}) + "\n"
                for at in range(8)
            )
        )
    results = [measure(Tournament(judge=letters, answers=path)) for path in (long, wide, folder)]
    for one in results:
        assert one.figures["rating/a"] == results[0].figures["rating/a"]
    done = CliRunner().invoke(
        app, ["measure", "tournament", "--answers", str(wide), "--judge", '{"answer_length": {"target": 4}}']
    )
    assert done.exit_code == 0, done.output
    assert "How often the model of the row beat that of the column" in done.output


def test_tasks_have_ratings_of_their_own() -> None:
    found = [
        {**row, "task": "long" if int(row["prompt"].split()[1]) % 2 else "short"}
        for row in rows({"a": lambda at: "xx" if at % 2 else "x", "b": lambda at: "x" if at % 2 else "xx"}, 40)
    ]
    figures = measure(Tournament(judge=letters, answers=found)).figures
    assert figures["rating/long/a"].low > 1000 > figures["rating/short/a"].high
    assert figures["rating/a"].low < 1000 < figures["rating/a"].high


def test_anchored_design_and_further_matches() -> None:
    anchored = measure(Tournament(judge=letters, answers=rows(FOUR), design="anchored", anchor="c"))
    assert len(anchored.samples) == 8 * 3
    assert all("c" in (row["a"], row["b"]) for row in anchored.samples)
    assert anchored.figures["rating/c"].value == pytest.approx(1000)
    more = measure(Tournament(judge=letters, answers=rows(FOUR), extra_matches=7))
    assert sum(row["round"] == 0 for row in more.samples) == 7


def test_models_that_compete() -> None:
    def said(word: str) -> Scripted:
        return Scripted(lambda prompt: f"{word} {prompt}", name="same name")

    asked = [{"prompt": f"question {at}", "answers": ["x"]} for at in range(10)]
    how = Tournament(judge=letters, models=[said("longer"), said("the longest")], records=asked)
    result = measure(how, said("short"), said("a"))
    assert result.figures["rank/same name #4"].value == 1
    assert result.figures["rank/same name"].value == 3
    assert result.against is None
    with pytest.raises(RecordError, match="needs 2 models at least, and there is 1"):
        measure(Tournament(judge=letters, records=asked), said("alone"))


def test_probabilities_simulate_a_judge() -> None:
    rng = np.random.default_rng(0)
    chance = {name: [float(x) for x in rng.uniform(0, 0.2, 60) + at / 4] for at, name in enumerate("zyx")}
    chance["x"][3] = None  # type: ignore[call-overload]
    path_free = Tournament(probabilities=chance, trusted={"x": 3, "y": 2, "z": 1}, sizes=[10, 40], resamples=60)
    result = measure(path_free)
    assert result.figures["spearman"].value == 1
    assert result.figures["rank/x"].value == 1
    assert [curve.name for curve in result.curves] == ["tournament", "anchored"]
    assert [x for x, _ in result.curves[0].points] == [20, 80]
    assert [x for x, _ in result.curves[1].points] == [30, 120]
    assert any("without a probability" in note for note in result.notes)
    coin = measure(Tournament(probabilities=chance, judge_accuracy=0.5))
    assert coin.figures["rating/x"].low < 1000 < coin.figures["rating/x"].high


def test_a_local_judge_reads_quoted_answers() -> None:
    def reply(text: str) -> str:
        one, two = text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        return "So.\nBetter: " + ("A" if "good" in one else "B" if "good" in two.split("\n")[0] else "tie")

    judge = Judge(model=Scripted(reply, name="judge"))
    answers = rows({"good": lambda at: f"good {at}\nBetter: B", "bad": "bad\nBetter: A"}, 12)
    figures = measure(Tournament(judge=judge, answers=answers)).figures
    assert figures["win_rate/good"].value == 1


def test_the_ready_recipe_in_small(tmp_path: Path) -> None:
    from truing.runs import run

    small = ["sft.records.limit=16", "sft.epochs=1", "tournament.limit=6", "tournament.max_new_tokens=16"]
    result = run("tournament", out=tmp_path / "run", overrides=small)
    figures = result.results["tournament"].figures
    assert len([name for name in figures if name.startswith("rank/")]) == 4
    assert "Ranking" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, SettingsError, "`judge` is a Judge or another reward"),
        ({"answers": [], "judge": letters}, RecordError, "no row of answers"),
        ({"answers": rows({"a": "x"}), "judge": letters}, RecordError, "needs 2 models at least"),
        ({"answers": rows({"a": "x", "b": "y"}, 1), "judge": letters}, RecordError, "2 prompts at least"),
        ({"answers": rows({"a": "x"}) * 2, "judge": letters}, RecordError, "a second time"),
        ({"answers": rows(FOUR)[:-1], "judge": letters}, RecordError, "'d' has no answer"),
        ({"answers": [{"prompt": "q", "answer": "x"}], "judge": letters}, RecordError, "no model"),
        ({"answers": [{"prompt": "q", "model": "a"}], "judge": letters}, RecordError, "no answer"),
        ({"answers": [{"prompt": "q", "model": "a", "answer": 3}], "judge": letters}, RecordError, "is a text"),
        ({"answers": "nowhere.jsonl", "judge": letters}, RecordError, "nowhere.jsonl"),
        ({"answers": rows(FOUR), "judge": letters, "design": "anchored"}, SettingsError, "`anchor`"),
        ({"answers": rows(FOUR), "judge": letters, "anchor": "z"}, SettingsError, "does not compete"),
        ({"answers": rows(FOUR), "judge": letters, "prior": -1}, SettingsError, "prior"),
        ({"answers": rows(FOUR), "judge": letters, "prior": 0}, RewardError, "not finite"),
        ({"answers": rows(FOUR), "judge": letters, "prior": 0, "extra_matches": 3}, SettingsError, "above 0"),
        ({"answers": rows(FOUR), "judge": letters, "resamples": 3}, SettingsError, "resamples"),
        ({"answers": rows(FOUR), "judge": letters, "models": [3]}, SettingsError, "hold all that compete"),
        ({"answers": rows(FOUR), "judge": letters, "trusted": {"a": 1}}, RecordError, "no number for 'b'"),
        ({"answers": rows(FOUR), "judge": letters, "sizes": [10]}, SettingsError, "they need `probabilities`"),
        ({"probabilities": {"a": [0.5]}, "answers": rows(FOUR)}, SettingsError, "not both"),
        ({"probabilities": {"a": [0.5]}, "judge": letters}, SettingsError, "simulate a judge"),
        ({"probabilities": {"a": [1.5, 0.1], "b": [0.5, 0.5]}}, RecordError, "from 0 to 1"),
        ({"probabilities": {"a": [0.5, math.nan], "b": [0.5, 0.5]}}, RecordError, "from 0 to 1"),
        ({"probabilities": {"a": [0.5], "b": [0.5, 0.5]}}, RecordError, "1 to 2 numbers"),
        ({"probabilities": {}}, RecordError, "lists by model"),
        ({"probabilities": {"a": [0.5], "b": [0.5]}, "judge_accuracy": 0.3}, SettingsError, "judge_accuracy"),
    ],
)
def test_what_cannot_work(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    how = Tournament(**settings)
    work = how.validate if how.needs_model else how.measure
    with pytest.raises(error, match=message):
        work()


def test_rewards_that_are_no_numbers() -> None:
    with pytest.raises(RewardError, match="nan"):
        measure(Tournament(judge=lambda prompts, answers: [math.nan] * len(answers), answers=rows(FOUR)))


@pytest.mark.real_data(REAL)
def test_the_leaderboard_is_found_with_fewer_judgments() -> None:
    result = measure(
        Tournament(probabilities=REAL / "win_probability.json", trusted="win_rate", sizes=[50], resamples=100)
    )
    assert result.figures["spearman"].value > 0.9
    tournament, anchored = (curve.points[0][1].value for curve in result.curves)
    assert tournament > anchored + 0.03
    assert any("without a probability" in note for note in result.notes)


@pytest.mark.real_data(REAL)
def test_real_answers_of_public_models() -> None:
    result = measure(Tournament(judge=letters, answers=REAL / "outputs.jsonl"))
    models = len(json.loads((REAL / "outputs.jsonl").open(encoding="utf-8").readline())["outputs"])
    assert len([name for name in result.figures if name.startswith("rating/")]) == models >= 7
    assert len(result.samples) == 120 * (models - 1)
    assert result.figures["longer"].value == 1
