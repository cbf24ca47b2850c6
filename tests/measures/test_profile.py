"""PROFILE: planted factors are found, shuffled preferences score nothing, and bad data is one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.measures.models import Scripted, small
from truing import load, measure, sandbox
from truing.errors import RecordError, RewardError, SettingsError, UnsupportedError
from truing.measures import profile_factors
from truing.measures.asking import Context
from truing.measures.profile import Profile
from truing.measures.profile_factors import FACTORS, Factor, factors_named, register_factor
from truing.measures.profile_facts import judged_factors
from truing.measures.profile_pairs import ranked_pairs
from truing.measures.profile_report import Agent, figures_of

WORDS = ["stone", "bird", "mat", "cat", "look", "small", "red", "grey", "bright", "tall"]


def pairs(n: int = 120, seed: int = 0, prefer: str = "length") -> list[dict[str, Any]]:
    """Responses of any length with any number of figures; the longer, or the one with more figures, is preferred."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in range(n):
        texts = [
            " ".join([*rng.choice(WORDS, rng.integers(3, 20)), *["7"] * int(rng.integers(0, 4))]) for _ in range(2)
        ]
        merits = [len(text.split()) if prefer == "length" else text.count("7") for text in texts]
        choice = int(np.sign(merits[0] - merits[1])) if prefer != "coin" else int(rng.choice([1, -1]))
        rows.append({"prompt": f"question {at}", "response_1": texts[0], "response_2": texts[1], "preference": choice})
    return rows


def test_planted_factors_are_found_without_a_model() -> None:
    for prefer, factor in (("length", "length"), ("facts", "numbers")):
        result = Profile(records=pairs(prefer=prefer), agents=[], resamples=30).measure()
        scores = {name: result.figures[f"{name} for human"].value for name in ("length", "numbers", "echo")
                  if f"{name} for human" in result.figures}  # fmt: skip
        assert max(scores, key=lambda name: scores[name]) == factor
        assert result.figures[f"{factor} for human"].low > 0.9
        beside = result.figures[f"{factor} beside others for human"]
        assert beside.low > 1
    assert result.figures["numbers for human, at like length"].value > 0.9


def test_a_coin_has_no_factor() -> None:
    result = Profile(records=pairs(300, prefer="coin"), agents=[], resamples=30).measure()
    for name in ("length", "numbers", "variety"):
        figure = result.figures[f"{name} for human"]
        assert abs(figure.value) < 0.2
        assert figure.low < 0.05
        assert figure.high > -0.05


def test_given_agents_and_rewards_beside_people() -> None:
    rows = [{**row, "preference_mirror": -row["preference"], "preference_twin": row["preference"]} for row in pairs()]

    def longer(prompts: Any, responses: Any) -> list[float]:
        return [float(len(text.split())) for text in responses]

    result = Profile(records=rows, agents=[], reward=longer, resamples=30).measure()
    assert result.figures["agreement of twin"].value == 1
    assert result.figures["agreement of mirror"].value == 0
    assert result.figures["kendall of twin"].value == pytest.approx(1)
    assert result.figures["pearson of mirror"].value == pytest.approx(-1)
    assert result.figures["pearson of twin"].high <= 1
    assert result.figures["agreement of reward"].value == 1
    assert any("Scores of mirror that differ most from those of human: length -2.00" in note for note in result.notes)
    assert result.samples[0]["mirror prefers"] == -result.samples[0]["human prefers"]


def test_agents_that_are_alike_are_not_told_apart() -> None:
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(200, 6, 2))
        lean = (values[:, :, 0] - values[:, :, 1]) @ np.linspace(-0.8, 0.8, 6)
        agents = [
            Agent(name, values[:, :, 0], values[:, :, 1],
                  np.where(rng.random(200) < 1 / (1 + np.exp(-lean)), 1.0, -1.0), np.arange(200))
            for name in ("human", "other")
        ]  # fmt: skip
        made = figures_of(agents, list("abcdef"), resamples=60, seed=seed)
        hits += made.figures["kendall of other"].high == 1
    assert hits >= 36


def test_prompts_are_clusters() -> None:
    rows = pairs(30)
    wide = Profile(records=[row for row in rows for _ in range(4)], agents=[], resamples=20).measure()
    plain = Profile(records=rows, agents=[], resamples=20).measure()
    for name in ("numbers", "variety"):
        one, other = wide.figures[f"{name} for human"], plain.figures[f"{name} for human"]
        assert one.value == pytest.approx(other.value)
        assert one.high - one.low > 0.8 * (other.high - other.low)


def test_factors_by_rule() -> None:
    texts = ["A cat, a cat; 3.5 dogs.", "- one\n2. two\n# three", ""]
    values = {
        factor.name: factor.values(["the cat?"] * 3, texts, ["a cat sat"] * 3)
        for factor in FACTORS.values() if not factor.sandbox
    }  # fmt: skip
    assert values["length"].tolist() == [7, 4, 0]
    assert values["numbers"].tolist() == [1, 1, 0]
    assert values["layout"].tolist() == [0, 3, 0]
    assert values["echo"].tolist() == [0.5, 0, 0]
    assert values["novelty"][0] == pytest.approx(4 / 6)
    assert np.isnan(values["novelty"][2])
    assert np.isnan(FACTORS["novelty"].values(["x"], ["a b"], [None])).all()
    assert FACTORS["hedging"].values(["x"], ["Perhaps I might; I don't know."], [None]).tolist() == [3]


def test_factors_of_the_sandbox() -> None:
    item = sandbox.items("fact", "dev", 1)[0]
    right = f"Of course. The {item.attribute} of {item.subject} is {item.truth}."
    values = {
        factor.name: factor.values([item.prompt] * 2, [right, "Ugh. I do not know."], [None] * 2).tolist()
        for factor in FACTORS.values() if factor.sandbox
    }  # fmt: skip
    assert values == {
        "intent": [1, 0], "facts": [1, 0], "misinformation": [0, 0], "declining": [0, 1], "politeness": [1, -1],
    }  # fmt: skip
    assert np.isnan(FACTORS["intent"].values(["Why?"], ["x"], [None])).all()


def test_a_factor_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_factors, "FACTORS", dict(FACTORS))
    monkeypatch.setattr("truing.measures.profile.FACTORS", profile_factors.FACTORS)
    sevens = Factor("sevens", lambda prompts, responses, sources: [text.count("7") for text in responses], "sevens")
    register_factor(sevens)
    register_factor(sevens)
    result = Profile(records=pairs(prefer="facts"), agents=[], factors=["sevens"], resamples=20).measure()
    assert result.figures["sevens for human"].value == 1
    with pytest.raises(SettingsError, match="already"):
        register_factor(Factor("length", sevens.measure, "x"))
    with pytest.raises(SettingsError, match="no factor `tone`"):
        factors_named(["tone"])
    with pytest.raises(RewardError, match="one number for each of 2 responses"):
        Factor("odd", lambda *given: [1.0], "x").values(["a"] * 2, ["b"] * 2, [None] * 2)
    with pytest.raises(RewardError, match="one number"):
        Factor("odd", lambda *given: [float("inf")], "x").values(["a"], ["b"], [None])


def test_sources_make_novelty_tell() -> None:
    rows = [
        {**row, "source": row["response_2"], "preference": 1} for row in pairs(40)
    ]  # fmt: skip
    result = Profile(records=rows, agents=[], resamples=20).measure()
    assert result.figures["novelty for human"].value > 0.9
    without = Profile(records=pairs(40), agents=[], resamples=20).measure()
    assert any("nothing here tells them: novelty, intent" in note for note in without.notes)
    assert "novelty for human" not in without.figures


def test_generators_are_profiled_by_levels_and_by_samples() -> None:
    rows = [{"prompt": f"the {word}?", "chosen": "a long answer it is", "rejected": "short"} for word in WORDS]

    def writes(prompt: str) -> str:
        level = next((at for at in range(1, 6) if f"quality {at} on" in prompt), 1)
        return " ".join(["word", *WORDS[: 2 * level]])

    model = Scripted(writes)
    result = measure(Profile(records=rows, agents=["levels"], prompts=4, resamples=20), model)
    assert len(model.asked) == 20
    assert result.figures["length for levels"].value == 1
    assert result.figures["length for levels"].n == 40
    own = measure(
        Profile(records=rows, agents=["likelihood", "samples"], prompts=3, samples=3, max_new_tokens=6, resamples=20),
        small(), small(1),
    )  # fmt: skip
    assert {"length for likelihood", "length for samples", "length for against samples"} <= set(own.figures)
    with pytest.raises(UnsupportedError, match="logits"):
        measure(Profile(records=rows, agents=["samples"]), model)


def test_equal_responses_are_no_pair() -> None:
    assert ranked_pairs([{"prompt": "a", "number": 0, "scored": [(1, "x"), (2, "x"), (3, "y"), (3, "z")]}]) == [
        {"prompt": "a", "number": 0, "source": None, "chosen": "y", "rejected": "x"},
        {"prompt": "a", "number": 0, "source": None, "chosen": "z", "rejected": "x"},
        {"prompt": "a", "number": 0, "source": None, "chosen": "y", "rejected": "x"},
        {"prompt": "a", "number": 0, "source": None, "chosen": "z", "rejected": "x"},
    ]
    rows = [{"prompt": f"q{at}", "chosen": "a long one", "rejected": "short"} for at in range(4)]
    result = measure(Profile(records=rows, agents=["levels"], resamples=20), Scripted(lambda prompt: "always this"))
    assert any("levels has no two different responses" in note for note in result.notes)


def judge(text: str) -> str:
    if text.startswith("List the facts"):
        said = text.split("The text:\n> ")[1].split("\n")[0]
        if "mumble" in said:
            return "no JSON"
        return json.dumps({"facts": [part for part in said.split(". ") if part]})
    if text.startswith("Which facts"):
        return json.dumps({"stated": [True, False]})
    answer = text.split("The answer:\n> ")[1].split("\n")[0]
    flags = [{"supported": "false" not in part, "on_focus": True, "helpful": "plus" in part}
             for part in answer.split(". ") if part]  # fmt: skip
    return json.dumps(
        {"facts": flags, "intent": True, "receptive": "plus" in answer, "misinformation": "false" in answer}
    )


def test_a_judge_tells_facts() -> None:
    responses = ["one. two false", "one. two. plus", "mumble", ""]
    asked = Scripted(judge, name="judge")
    found, lost = judged_factors(
        asked, ["q"] * 4, responses, ["s one. s two", None, None, None], Context("profile"), retries=1
    )
    assert lost == 1
    assert found["facts"][:2] == [2, 3]
    assert found["hallucination"][0] == 0.5
    assert np.isnan(found["hallucination"][1:]).all(), "without a source nothing is unsupported"
    assert found["source_coverage"][0] == 0.5
    assert found["helpfulness"][:2] == [0, pytest.approx(1 / 3)]
    assert found["off_focus"][:2] == [0, 0]
    assert found["misinformation"][:2] == [1, 0]
    assert np.isnan(found["facts"][2])
    assert found["facts"][3] == 0
    assert np.isnan(found["helpfulness"][3])
    # Five texts are split, one twice; three answers are checked, and one is held against its source.
    assert len(asked.asked) == 6 + 3 + 1


def test_facts_of_a_judge_are_factors() -> None:
    rows = [{"prompt": f"q{at}", "chosen": f"one {at}. two. plus", "rejected": f"one {at} false"} for at in range(6)]
    result = Profile(records=rows, agents=[], judge=Scripted(judge), factors=["length", "facts", "misinformation"],
                     resamples=20).measure()  # fmt: skip
    assert result.figures["facts for human"].value == 1
    assert result.figures["misinformation for human"].value == -1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no row"),
        ([{"prompt": "a", "response_1": "x", "response_2": "y"}], "`preference` is 1, -1 or 0, not None"),
        ([{"prompt": "a", "response_1": "x", "response_2": "y", "preference": 0}], "all are ties"),
        ([{"prompt": "a", "response_1": "x", "response_2": "y", "preference": float("nan")}], "not nan"),
        ([{"prompt": "a", "response_1": "x", "response_2": None, "preference": 1}], "needs `prompt`"),
        ([{"prompt": "a", "response_1": "x", "response_2": "x", "preference": 1}], "texts that are all equal"),
        ([{"prompt": "a", "response_1": "x", "response_2": "y z", "preference": 1, "source": 3}], "`source` of row-1"),
        ([{"prompt": "a", "completion": "x"}], "preference"),
    ],
)  # fmt: skip
def test_bad_records(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Profile(records=rows, agents=[]).measure()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agents": ["judge"]}, "agents has no `judge`"), ({"agents": "levels"}, "list of names"),
        ({"agents": ["levels"] * 2}, "twice"), ({"factors": []}, "at least one"), ({"factors": ["tone"]}, "no `tone`"),
        ({"factors": ["hallucination"]}, "told by a `judge`"), ({"levels": ["a", "b"]}, "each with {prompt}"),
        ({"samples": 1}, "samples"), ({"near": -1}, "near"), ({"judge": 3}, "judge is a model"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Profile(**settings).measure(small())


def test_in_the_sandbox_the_aligned_model_likes_what_people_like() -> None:
    made = Profile(limit=100, agents=["likelihood"], split="dev", resamples=40)
    result = measure(made, load("sandbox/guide"), load("sandbox/base"))
    assert result.figures["intent for likelihood"].low > result.figures["intent for against likelihood"].high
    assert result.figures["length for against likelihood"].high < 0, "sums of log-probabilities like what is short"
    assert result.figures["pearson of likelihood"].value > result.figures["pearson of against likelihood"].value


def test_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(30)))
    done = CliRunner().invoke(
        app, ["measure", "profile", "--records", str(tmp_path / "pairs.jsonl"), "--agents", "[]", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["figures"]["length for human"]["value"] > 0.8
