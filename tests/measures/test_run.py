from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.measures.models import Scripted, lines, small
from truing.contracts import Measure
from truing.errors import RunError, SettingsError, UnsupportedError
from truing.measures.asking import Asking, Context, ask
from truing.measures.journal import Journal, fingerprint
from truing.measures.result import Column, Figure, Outcome, Result
from truing.measures.run import compare, measure
from truing.models.types import Sampling


class Shouting(Asking):
    """How often answers are in capitals, which a user of truing might ask.

    Args:
        marks: counted too.
    """

    marks: bool = False

    def _measure(self, model: Any, context: Context) -> Outcome:
        rows, notes = self.answered(model, self.rows(("fact", "context")), context)
        for row in rows:
            row.pop("item")
            row["shouting"] = row["answer"].isupper()
            row["grade"] = "loud" if row["shouting"] else "quiet"
        columns = {
            "shouting": Column("shouting", better="lower", statistic="stratified_share", strata="kind"),
            "words": Column("words", "words", "neither", "mean"),
        }
        return Outcome(rows, columns, notes)


def loud_about(words: tuple[str, ...]) -> Scripted:
    def answer(prompt: str) -> str:
        return "YES IT IS" if any(word in prompt for word in words) else "yes it is"

    return Scripted(answer, name=f"loud about {len(words)}")


def test_two_models_are_paired_on_the_same_items() -> None:
    every, none = Scripted(str.upper, name="every"), Scripted(str.lower, name="none")
    result = measure(Shouting(limit=20), every, none)
    assert result.figures["shouting"].value == 1.0
    assert result.against is not None
    assert result.against["shouting"].value == 0.0
    assert result.differences is not None
    assert result.differences["shouting"].value == 1.0
    assert result.differences["shouting"].p == pytest.approx(2 * 0.5**20)
    assert result.differences["words"].value == 0
    assert every.asked == none.asked
    assert len(every.asked) == 20
    row = result.samples[0]
    assert (row["grade"], row["against_grade"]) == ("loud", "quiet")
    assert row["answer"] == row["against_answer"].upper()
    assert (row["shouting"], row["against_shouting"]) == (True, False)
    assert result.model["name"] == "every"
    assert result.seeds == {"seed": 0}
    assert result.usage["calls"] == {"model": 2}
    assert {"truing", "torch"} <= result.versions.keys()


def test_alone_there_is_no_difference() -> None:
    result = measure(Shouting(limit=4), Scripted(str.upper))
    assert (result.against, result.differences, result.against_model) == (None, None, None)
    assert not any(key.startswith("against_") for row in result.samples for key in row)


def test_names_settings_and_models_are_checked() -> None:
    with pytest.raises(SettingsError, match="Did you mean `hhh`"):
        measure("hh", Scripted(str.upper))
    with pytest.raises(SettingsError, match="no setting `limt`"):
        measure("hhh", Scripted(str.upper), limt=3)
    with pytest.raises(SettingsError, match="at least 1"):
        measure("hhh", Scripted(str.upper), limit=0)
    with pytest.raises(SettingsError, match="Tune on dev"):
        measure("hhh", Scripted(str.upper), split="web")
    with pytest.raises(SettingsError, match="temperature"):
        measure("hhh", Scripted(str.upper), temperature=-1)
    with pytest.raises(SettingsError, match="got int"):
        measure("hhh", 7)
    assert measure(Shouting(limit=2), Scripted(str.upper), marks=True).settings["marks"] is True


@pytest.mark.parametrize("name", ["perplexity", "kl", "preference_accuracy"])
def test_a_model_without_scores_is_told_so_before_any_work(name: str) -> None:
    model = Scripted(str.upper)
    with pytest.raises(UnsupportedError, match=f"`{name}` needs .*logits, which scripted does not offer"):
        measure(name, model, small())
    with pytest.raises(UnsupportedError):
        measure(name, small(), model)
    assert model.asked == []


def test_figures_without_an_interval_are_not_shown() -> None:
    rows = [{"id": "a", "x": 1.0, "y": None, "z": math.inf}]
    columns = {name: Column(name, "words", statistic="mean") for name in "xyz"}
    result = compare("m", Outcome(rows, {**columns, "share": Column("x")}), None)
    assert list(result.figures) == ["share"]
    assert result.notes == [
        "`x` is not shown: one sample tells nothing of its uncertainty. Raise `limit`.",
        "`y` is not shown: no sample counts for it.",
        "`z` is not shown: 1 of 1 samples have no finite value.",
    ]
    assert "0 samples a figure" in str(Result("m", {"name": "x"}, {}))


def test_samples_without_a_value_on_one_side_are_not_paired() -> None:
    mine = [{"id": at, "x": value} for at, value in enumerate([1, 1, None, 0, 1])]
    theirs = [{"id": at, "x": value} for at, value in enumerate([0, 1, 1, None, 0])]
    result = compare("m", Outcome(mine, {"x": Column("x")}), Outcome(theirs, {"x": Column("x")}))
    assert result.figures["x"].n == 4
    assert result.differences is not None
    assert (result.differences["x"].n, result.differences["x"].value) == (3, pytest.approx(2 / 3))


def test_clusters_of_the_rows_are_kept_in_mind() -> None:
    rows = [{"id": at, "cluster": at // 4, "x": float(at // 4 % 2), "y": float(at // 4)} for at in range(40)]
    columns = {"x": Column("x"), "y": Column("y", "words", statistic="mean")}
    together = compare("m", Outcome(rows, columns))
    alone = compare("m", Outcome([{**row, "cluster": None} for row in rows], columns))
    for name, method in (("x", "Clopper-Pearson, clustered"), ("y", "clustered bootstrap")):
        assert together.figures[name].method == method
        assert together.figures[name].low < alone.figures[name].low


def test_a_ratio_is_a_ratio_of_sums() -> None:
    rows = [{"id": at, "x": float(at), "w": float(2 * at + 1)} for at in range(1, 9)]
    column = {"r": Column("x", "nats", statistic="ratio", weight="w")}
    result = compare("m", Outcome(rows, column), Outcome(rows, column))
    assert result.figures["r"].value == pytest.approx(36 / 80)
    assert result.differences is not None
    assert result.differences["r"].value == 0
    assert result.differences["r"].high > 0


def test_a_result_is_saved_whole_and_read_back(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": [{"role": "user", "content": "hi \ud800"}], "answer": "<b>\x1b[31m", "x": math.nan}]
    result = Result(
        "m", {"name": "one"}, {"x": Figure(0.5, 0.2, math.inf, 3, "exact", p=0.04)}, samples=rows, notes=["note"]
    )
    result.save(tmp_path / "deep" / "m.json")
    text = (tmp_path / "deep" / "m.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Result.load(tmp_path / "deep" / "m.json")
    assert again.to_json() == result.to_json()
    assert (again.figures["x"].value, again.figures["x"].p) == (0.5, 0.04)
    assert math.isnan(again.figures["x"].high)
    assert again.samples[0]["x"] is None
    assert Result.from_json({**result.to_json(), "later": 1}).name == "m"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}', '{"name": "m", "model": {}, "figures": {"x": {}}}'])
def test_what_is_no_result_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(RunError, match="holds no result of a measure"):
        Result.load(tmp_path / "m.json")
    with pytest.raises(RunError):
        Result.load(tmp_path / "absent.json")


def test_printed_it_is_a_table_that_steers_no_terminal() -> None:
    every, none = Scripted(str.upper, name="\x1b[31mred\x1b[0m"), Scripted(str.lower, name="<b>none</b>")
    result = measure(Shouting(limit=20), every, none)
    result.notes = ["A note & more.\x07"]
    shown = str(result)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert [line.split("  ")[0] for line in shown.splitlines()[1:4]] == ["figure", "shouting", "words"]
    assert "100.0 % [83.2, 100.0]" in shown
    assert "+100.0 pp [" in shown
    assert "< 0.001" in shown
    assert "95 % intervals; differences are paired; 20 samples a figure." in shown
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert "A note &amp; more." in html
    assert html.count("<tr>") == 3


def test_answers_cut_by_the_limit_are_counted() -> None:
    model = Scripted(lambda prompt: "a b c" if "note" in prompt.lower() else "a", longest=2)
    notes = measure(Shouting(limit=8), model).notes
    assert len(notes) == 1
    assert "of scripted reached the limit of 64 tokens" in notes[0]


# --- the journal -------------------------------------------------------------------------------------------------


def without_cost(result: Result) -> dict[str, Any]:
    return {key: value for key, value in result.to_json().items() if key not in ("usage", "seconds")}


def test_a_killed_measure_repeats_no_finished_batch(tmp_path: Path) -> None:
    undisturbed = measure(Shouting(limit=200), loud_about(("the",)))
    stopped = loud_about(("the",))
    stopped.fails_after = 130
    with pytest.raises(KeyboardInterrupt):
        measure(Shouting(limit=200), stopped, out=tmp_path)
    assert lines(tmp_path) == 128
    again = loud_about(("the",))
    result = measure(Shouting(limit=200), again, out=tmp_path)
    assert len(again.asked) == 72
    assert without_cost(result) == without_cost(undisturbed)
    third = loud_about(("the",))
    assert without_cost(measure(Shouting(limit=200), third, out=tmp_path)) == without_cost(undisturbed)
    assert third.asked == []


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_cut_last_line_is_asked_again_and_nothing_is_glued_to_it(tmp_path: Path, cut: int) -> None:
    first = measure(Shouting(limit=30), loud_about(("the",)), out=tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    again = loud_about(("the",))
    assert without_cost(measure(Shouting(limit=30), again, out=tmp_path)) == without_cost(first)
    # Without its line end alone the last entry is still whole.
    assert len(again.asked) == (0 if cut == 1 else 1)
    third = loud_about(("the",))
    measure(Shouting(limit=30), third, out=tmp_path)
    assert third.asked == []


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    measure(Shouting(limit=6), Scripted(str.upper), out=tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(b'\xff\xfe\n[]\nnull\n{"key": 1}\n' + path.read_bytes())
    again = Scripted(str.upper)
    measure(Shouting(limit=6), again, out=tmp_path)
    assert again.asked == []


def test_models_prompts_and_sampling_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    one, two = Scripted(str.upper, name="one"), Scripted(str.lower, name="two")
    for model, sampling in ((one, Sampling(8)), (two, Sampling(8)), (one, Sampling(9)), (one, Sampling(8, 0.5))):
        ask(model, ["a", "b", "a"], sampling, Context("m", journal=journal))
    assert [len(one.asked), len(two.asked)] == [6, 2]
    # Greedy answers do not depend on the seed.
    answers = ask(one, ["a", "b"], Sampling(8, seed=5), Context("m", journal=Journal(tmp_path)))
    assert [answer.text for answer in answers] == ["A", "B"]
    assert len(one.asked) == 6
    ask(one, ["a", "b"], Sampling(8, 0.5, seed=5), Context("m", journal=journal))
    assert len(one.asked) == 8


def test_measures_of_one_run_share_answers(tmp_path: Path) -> None:
    model = Scripted(lambda prompt: "I will not help with that.")
    measure("hhh", model, out=tmp_path, limit=100)
    assert len(model.asked) == 100
    for name in ("over_refusal", "capability", "length", "diversity"):
        measure(name, model, out=tmp_path, limit=30)
    assert len(model.asked) == 100


def test_a_fingerprint_is_taken_once_and_again_when_weights_change() -> None:
    import torch

    model = small()
    first = fingerprint(model)
    assert fingerprint(model) == first == model.fingerprint
    with torch.no_grad():
        next(model.weights.parameters()).add_(1.0)
    assert fingerprint(model) != first
    assert fingerprint(model) == model.fingerprint


def test_a_local_model_answers_with_noise_of_its_own_for_each_prompt() -> None:
    model = small()
    prompts = ["the cat", "the mat"]
    sampling = Sampling(12, temperature=1.0)
    together = ask(model, prompts, sampling, Context("m"))
    alone = [ask(model, [prompt], sampling, Context("m"))[0] for prompt in prompts]
    assert together == alone
    other = ask(model, prompts, Sampling(12, temperature=1.0, seed=1), Context("m"))
    assert other != together


PROGRAM = """
import sys, time
from tests.measures.test_run import Shouting
from tests.measures.models import Scripted
from truing.measures.run import measure

def answer(prompt):
    time.sleep(0.002)
    return prompt.upper()

measure(Shouting(limit=600), Scripted(answer), out=sys.argv[1])
"""


def test_killed_by_the_system_it_goes_on(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root / 'src'}:{root}"},
    )
    began = time.monotonic()
    while not list(tmp_path.glob("*.jsonl")) and process.poll() is None and time.monotonic() - began < 60:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = lines(tmp_path)
    assert 64 <= done < 600
    model = Scripted(str.upper)
    result = measure(Shouting(limit=600), model, out=tmp_path)
    assert len(model.asked) == len(result.samples) - done
    assert without_cost(result) == without_cost(measure(Shouting(limit=600), Scripted(str.upper)))


def test_the_base_class_and_json_agree(tmp_path: Path) -> None:
    result = Shouting(limit=4).measure(Scripted(str.upper), out=str(tmp_path))
    assert isinstance(Shouting(), Measure)
    assert json.loads(json.dumps(result.to_json()))["settings"]["limit"] == 4


def test_a_change_within_a_model_is_a_paired_figure() -> None:
    from truing.measures.show import interval
    from truing.measures.statistics import difference_of_means, difference_of_shares

    after, before = [1, 0, 0, 0, 1, 0, 0, 1], [1, 1, 1, 0, 1, 1, None, 1]
    rows = [{"id": at, "x": one, "y": two} for at, (one, two) in enumerate(zip(after, before))]
    column = {"lost": Column("x", "points", minus="y")}
    result = compare("m", Outcome(rows, column), Outcome([{**row, "x": row["y"]} for row in rows], column))
    kept = [at for at in range(8) if before[at] is not None]
    expected = difference_of_shares([after[at] for at in kept], [before[at] for at in kept])  # type: ignore[misc]
    lost = result.figures["lost"]
    assert (lost.value, lost.low, lost.high, lost.n) == (expected.value, expected.low, expected.high, 7)
    assert interval(lost).startswith("−42.9 pp [−")
    assert result.against is not None
    assert result.differences is not None
    assert result.against["lost"].value == 0
    assert result.differences["lost"].value == pytest.approx(lost.value)
    means = compare("m", Outcome(rows, {"lost": Column("x", "words", statistic="mean", minus="y")}))
    other = difference_of_means([after[at] for at in kept], [before[at] for at in kept])  # type: ignore[misc]
    assert other is not None
    assert means.figures["lost"].low == pytest.approx(other.low)


def test_figures_in_a_grid_are_not_listed_again(tmp_path: Path) -> None:
    from truing.measures.result import Grid

    rows = [{"id": at, "x": at % 2, "y": 1, "z": 0} for at in range(10)]
    grid = Grid("Side by side", ["", "first", "second"], [("row <b>", ["y", "z"]), ("empty", ["", "absent"])])
    result = compare("m", Outcome(rows, {name: Column(name) for name in "xyz"}, grids=[grid]))
    assert list(result.listed) == ["x"]
    assert len(result.figures) == 3
    assert result.grid_cells(grid)[1] == ["row <b>", "100.0 % [69.2, 100.0]", "0.0 % [0.0, 30.8]"]
    assert result.grid_cells(grid)[2] == ["empty", "", ""]
    result.model = {"name": "one"}
    lines = str(result).splitlines()
    assert lines.index("Side by side") > lines.index(next(line for line in lines if line.startswith("x ")))
    assert sum("69.2" in line for line in lines) == 1
    assert "row &lt;b&gt;" in result._repr_html_()
    result.save(tmp_path / "m.json")
    assert Result.load(tmp_path / "m.json").grids == [grid]


def test_curves_are_shown_in_text_and_in_a_notebook() -> None:
    from truing.measures.result import Curve

    curve = Curve("ability", "strength", [(0.5, Figure(0.25, 0.125, 0.5, 10, "bootstrap"))])
    result = compare("m", Outcome([{"id": at, "x": at % 2} for at in range(10)], {"x": Column("x")}, curves=[curve]))
    result.model = {"name": "one"}
    assert "0.5       25.0 % [12.5, 50.0]" in str(result)
    assert "<td>0.5</td><td>25.0 % [12.5, 50.0]</td>" in result._repr_html_()
