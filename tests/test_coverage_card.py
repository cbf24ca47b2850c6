"""The coverage card: maps of surveys, walked for a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reports.examples import run_result
from truing import catalogue
from truing.coverage import MAPS, cards, maps, tags
from truing.errors import RecipeError, SettingsError
from truing.measures.result import Figure, Result
from truing.reports.html import render
from truing.reports.model_card import card as model_card
from truing.runs.result import RunResult
from truing.runs.schema import parse


def run_of(*steps: dict[str, Any], **figures: list[str]) -> RunResult:
    """A run with these steps of a recipe, and figures by measure."""
    results = {
        name: Result(name, {}, {one: Figure(0.5, 0.4, 0.6, 10, "exact") for one in found})
        for name, found in figures.items()
    }
    done = [{"method": step["method"], "trained": step.pop("trained", True)} for step in steps]
    state = {"recipe": {"model": "sandbox/base", "steps": list(steps)}, "steps": done, "measures": []}
    return RunResult(Path("nowhere"), state, results)


def step(method: str, path: str | None = None, **more: Any) -> dict[str, Any]:
    records = None if path is None else {"path": path, "tags": more.pop("tags", ())}
    return {"method": method, "records": records, "settings": more.pop("settings", {}), **more}


def covered(run: RunResult, name: str) -> dict[str, list[str]]:
    (found,) = cards(run, [name])
    return {one.leaf.path: [each.label for each in one.evidence] for one in found.covered if one.evidence}


def test_every_place_says_what_shows_it_or_why_nothing_does() -> None:
    names = {kind: {entry.name for entry in catalogue.entries(kind)} for kind in ("method", "measure")}
    for one in maps():
        paths = [leaf.path for leaf in one.leaves]
        assert len(paths) == len(set(paths))
        for leaf in one.leaves:
            assert bool(leaf.why) != bool(leaf.methods or leaf.figures or leaf.tagged or leaf.settings), leaf.path
            assert leaf.ways
            assert set(leaf.methods) <= names["method"], leaf.path
            assert {figure.partition(".")[0] for figure in leaf.figures} <= names["measure"], leaf.path


def test_sizes_are_those_of_the_papers() -> None:
    count = {one.name: len(one.leaves) for one in maps()}
    assert tuple(count) == MAPS
    assert count["trustworthiness"] == 29
    goals = [leaf.path.split("/")[1] for leaf in maps()[0].leaves]
    assert (goals.count("goal"), goals.count("evaluation")) == (9, 9)
    assert {one.paper for one in maps()} == {2, 4, 11, 13, 15, 20, 21}


@pytest.mark.parametrize("run", [None, run_of()])
def test_nothing_run_covers_nothing_and_lists_all(run: RunResult | None) -> None:
    for card in cards(run):
        assert card.count == 0
        assert [one.leaf for one in card.covered] == list(card.map.leaves)


def test_an_untagged_data_set_never_counts() -> None:
    assert covered(run_of(step("kto", "mine.jsonl")), "goals") == {}
    tagged = step("kto", "mine.jsonl", tags=["goals/goal/values/norms"])
    assert covered(run_of(tagged), "goals") == {"goals/goal/values/norms": ["step 1, kto"]}
    # Those of the sandbox are tagged, whichever split is read.
    assert list(covered(run_of(step("kto", "sandbox/labels:dev")), "goals")) == ["goals/goal/preferences/synthetic"]


def test_methods_settings_and_figures_are_evidence() -> None:
    assert covered(run_of(step("dpo", settings={"adapter": "lora"})), "post-training") == {
        "post-training/alignment/direct": ["step 1, dpo"],
        "post-training/efficiency/adapters": ["step 1, dpo"],
    }
    found = covered(run_of(hhh=["harmless", "honest"]), "outer-inner")
    assert found["outer-inner/evaluation/toxicity-generated"] == ["hhh.harmless"]
    assert found["outer-inner/evaluation/factuality"] == ["hhh.honest"]
    assert "outer-inner/attacks/backdoor" not in found


def test_training_alone_is_one_directional() -> None:
    (found,) = cards(run_of(step("sft", "sandbox/demonstrations")), ["bidirectional"])
    assert found.remarks == ("One-directional: nothing shows that people understand, question or adapt to the model.",)
    (found,) = cards(run_of(activation_attack=["x"]), ["bidirectional"])
    assert found.remarks == ("One-directional: nothing shows that the model was aligned.",)
    assert cards(run_of(), ["bidirectional"])[0].remarks == ()


def test_changed_weights_without_a_safety_measure_are_unverified() -> None:
    (found,) = cards(run_of(step("merge"), capability=["capability"]), ["post-training"])
    assert found.remarks[0].startswith("Alignment unverified")
    safe = {"hhh": ["harmless"], "over_refusal": ["over_refusal"]}
    assert cards(run_of(step("merge"), **safe), ["post-training"])[0].remarks == ()
    assert cards(run_of(step("deal", trained=False)), ["post-training"])[0].remarks == ()


def test_tags_are_checked_with_the_recipe() -> None:
    text = "model: sandbox/base\nsteps:\n  - sft: {records: {path: a.jsonl, tags: [goals/goal/values/norm]}}\n"
    with pytest.raises(RecipeError, match=r"line 3.*no map has a place `goals/goal/values/norm`.*values/norms"):
        parse(text)
    recipe, _ = parse(text.replace("values/norm]", "values/norms]"))
    records = recipe.steps[0].records
    assert records is not None
    assert records.tags == ("goals/goal/values/norms",)
    assert "goals/evaluation/values/surveys" not in tags()


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no map `risks`.*trustworthiness"):
        cards(None, ["risks"])


def test_plain_values_and_pages(tmp_path: Path) -> None:
    run = run_result(tmp_path)
    found = json.loads(json.dumps([card.to_json() for card in cards(run)]))
    assert [one["map"] for one in found] == list(MAPS)
    page = render(run)
    assert "What there is evidence for" in page
    assert "| Trustworthiness |" in model_card(run, len(run.state["steps"]) - 1)
