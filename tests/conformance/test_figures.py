"""Every measure of the catalogue says which figures it gives, before anything is measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

import truing as tr
from tests.conformance.figures import named, undeclared
from tests.measures.test_align_score import PAIRS, Judge
from tests.measures.test_cultural_alignment import opinions as lands
from tests.measures.test_deception import items
from tests.measures.test_discretion import following, long, planted
from tests.measures.test_political_compass import opinions as leaning
from tests.measures.test_profile import pairs
from truing import RepresentationSteering, Result, load
from truing.catalogue import entries
from truing.errors import RecipeError
from truing.rewards.sandbox_judge import SandboxJudge
from truing.runs import parse
from truing.sandbox.surveys import Respondent, planted_texts
from truing.sandbox.trust_respondent import TrustRespondent

MATRIX = planted(80)
TEXTS = [{**row, "model": f"m{at % 2}"} for at, row in enumerate(planted_texts(0)[0])]
ANSWERS = [{"prompt": f"q{at}", "model": name, "answer": name * (at % 3 + len(name))} for at in range(6)
           for name in ("a", "bb", "ccc")]  # fmt: skip
MOVES = [
    {"before": one, "after": other} for one in ("correct", "wrong", "idk") for other in ("correct", "wrong", "idk")
]
OUTPUTS = [{"prompt": "Write.", "length": length, "response": "a b c"} for length in (3, 4, 600)]
WORDS = tr.Keyword(words=["sorry"])


def lengths(prompts: Any, answers: Any) -> list[int]:
    return [len(answer) for answer in answers]


def steered() -> Any:
    return RepresentationSteering(layers=[-1]).align(load("sandbox/base"), "sandbox/contrasts")


SMALL, BASE = (lambda: load("sandbox/small")), (lambda: load("sandbox/base"))
CASES: dict[str, tuple[Any, Callable[[], Any] | None, Callable[[], Any] | None]] = {
    "hhh": (tr.HHH(limit=10), SMALL, BASE),
    "over_refusal": (tr.OverRefusal(limit=8), SMALL, BASE),
    "capability": (tr.Capability(limit=6), SMALL, BASE),
    "length": (tr.Length(limit=6), SMALL, BASE),
    "diversity": (tr.Diversity(limit=6), SMALL, BASE),
    "kl": (tr.KL(limit=4), SMALL, BASE),
    "perplexity": (tr.Perplexity(limit=4), SMALL, BASE),
    "preference_accuracy": (tr.PreferenceAccuracy(limit=6, reward=WORDS), SMALL, BASE),
    "win_rate": (tr.WinRate(limit=6, judge=WORDS), SMALL, BASE),
    "token_shift": (tr.TokenShift(limit=4, max_new_tokens=8), SMALL, BASE),
    "just_eval": (tr.JustEval(limit=10), SMALL, BASE),
    "activation_attack": (
        tr.ActivationAttack(limit=22, strengths=(-0.5,), max_new_tokens=4, draws=1, layers=[1]), SMALL, None,
    ),
    "steering_tradeoff": (tr.SteeringTradeoff(limit=6, strengths=[-1.0, 0.0, 1.0]), steered, None),
    "exact_match": (tr.ExactMatch(limit=6), SMALL, BASE),
    "pass_rate": (tr.PassRate(limit=3, samples=4, ks=[1, 3], max_new_tokens=8), SMALL, BASE),
    "multiple_choice": (tr.MultipleChoice(limit=6, reading="both", max_new_tokens=4), SMALL, BASE),
    "value_orientation": (tr.ValueOrientation(orders="one"), SMALL, None),
    "cultural_alignment": (tr.CulturalAlignment(permutations=50), lambda: Respondent(lands), None),
    "political_compass": (
        tr.PoliticalCompass(wordings=2, personas={"orientation": ["far left", "far right"]}, open_tokens=4),
        lambda: Respondent(leaning()), None,
    ),
    "tropes": (tr.Tropes(texts=TEXTS), None, None),
    "honesty": (tr.Honesty(labels=MOVES), None, None),
    "discretion": (
        tr.Discretion(table=long(MATRIX), reference="a", resamples=20, annotators={
            "a": following(MATRIX, [0, 1, 2, 3]), "b": following(MATRIX, [3, 2, 1, 0])}), None, None,
    ),
    "profile": (tr.Profile(records=pairs(60), agents=[], reward=lengths, resamples=20), None, None),
    "radfact": (tr.RadFact(limit=5), None, None),
    "align_score": (tr.AlignScoreMeasure(pairs=PAIRS, scorer=Judge()), None, None),
    "tournament": (
        tr.Tournament(judge=lengths, answers=ANSWERS, trusted={"a": 1, "bb": 2, "ccc": 3}),
        None, None,
    ),
    "weak_to_strong_deception": (tr.WeakToStrongDeception(probabilities=items(), min_tax=1), None, None),
    "long_output": (tr.LongOutput(outputs=OUTPUTS), None, None),
    "judge_agreement": (tr.JudgeAgreement(judge=SandboxJudge(skill=2.0), limit=40), None, None),
    "trustworthiness": (tr.Trustworthiness(limit=60, repeats=2), TrustRespondent, None),
    "suite": (tr.Suite(path="sandbox", limit=20, max_new_tokens=4), SMALL, None),
}  # fmt: skip
OPEN = {"suite"}
"""Measures whose figures only the data name; each says so with a ``*`` of its own."""


@pytest.fixture(scope="module", params=[entry.name for entry in entries("measure")])
def measured(request: pytest.FixtureRequest) -> tuple[str, Any, Result]:
    assert request.param in CASES, f"the measure {request.param} has no case here: add a cheap one"
    made, model, against = CASES[request.param]
    loaded = [one() for one in (model, against) if one is not None]
    return request.param, made, made.measure(*loaded)


def test_figures_are_those_that_were_declared(measured: tuple[str, Any, Result]) -> None:
    name, made, result = measured
    assert made.gives, f"{name} declares no figure: set `gives`"
    assert ("*" in made.gives) == (name in OPEN)
    assert result.figures
    assert undeclared(made, result) == []


def test_a_recipe_may_require_each_of_them(measured: tuple[str, Any, Result]) -> None:
    """What is checked before measuring lets every figure pass that is there, and no other name that is closed."""
    name, made, result = measured
    given = {key: value for key, value in made.changed().items() if key in ("limit", "ks", "samples", "path")}
    given |= {"judge": {"keyword": {"words": ["x"]}}} if name in ("win_rate", "tournament") else {}
    head = f"model: sandbox/base\nmeasures:\n  - {name}: {json.dumps(given)}\nrequire:\n"
    for figure in list(result.figures)[:12]:
        parse(head + f"  {json.dumps(figure)}: '> 0'\n", "r.yaml")
    with pytest.raises(RecipeError, match="no measure here gives the figure"):
        parse(head + "  no such figure at all: '> 0'\n", "r.yaml")


def test_an_undeclared_figure_is_noticed() -> None:
    result = tr.LongOutput(outputs=OUTPUTS).measure()
    figures = {**result.figures, "length_scores": result.figures["near"]}
    assert undeclared(tr.LongOutput(outputs=OUTPUTS), dataclasses.replace(result, figures=figures)) == ["length_scores"]


def test_settings_name_what_the_class_leaves_open() -> None:
    assert tr.PassRate(samples=4, ks=[3, 1]).figure_names() == ("pass@1", "pass@3", "pass^3")
    values = tr.ValueOrientation().figure_names()
    assert "value: benevolence" in values
    assert not any("*" in one for one in values)
    assert "*" not in tr.Suite(path="persian").figure_names()
    assert "*" in tr.Suite(path="no/such/folder").figure_names()
    assert named("value: thrift", tr.ValueOrientation(portraits=[]).figure_names())
