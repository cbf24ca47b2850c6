"""Token shift: ranks, classes and ratios by hand, and what two models give."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests import tiny
from tests.measures.models import Scripted, small
from truing import SFT, URIAL, Nudging, load, measure, sandbox
from truing.contracts import Settings
from truing.errors import SettingsError, UnsupportedError
from truing.measures import statistics
from truing.measures.result import Result
from truing.measures.shifts import CLASSES, likeness, ranks, shift_class, shift_ratios
from truing.measures.token_shift import TokenShift
from truing.models import LogitsModifier, Model

ROWS = [{"prompt": prompt, "answers": ["x"]} for prompt in ("the cat sat", "the stone?", "look at the small red bird")]


def shift(model: Any, against: Any, **settings: Any) -> Result:
    return measure(TokenShift(**{"records": ROWS, "max_new_tokens": 12, **settings}), model, against)


# --- pure parts ------------------------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    logits = torch.tensor([[4.0, 3.0, 1.0]])
    assert ranks(logits, torch.tensor([1])).tolist() == [2]
    assert shift_class(2) == "marginal"
    assert [shift_class(rank) for rank in (1, 2, 3, 4, 99)] == ["unshifted", *["marginal"] * 2, *["shifted"] * 2]
    # Equal logits share the better rank.
    assert ranks(torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([1])).tolist() == [1]


def test_ranks_do_not_know_a_constant() -> None:
    logits, tokens = torch.randn(20, 50), torch.randint(50, (20,))
    shifted = logits + torch.randn(20, 1) * 10
    assert ranks(logits, tokens).tolist() == ranks(shifted, tokens).tolist()
    assert ranks(logits, tokens).tolist() == [
        sorted(row.tolist(), reverse=True).index(row[token].item()) + 1 for row, token in zip(logits, tokens)
    ]


def test_ratios_add_up_to_one() -> None:
    assert shift_ratios([1, 2, 3, 4]) == {"unshifted": 0.25, "marginal": 0.5, "shifted": 0.25}
    assert sum(shift_ratios([1, 1, 2, 7, 9, 3, 50]).values()) == pytest.approx(1)


def test_equal_lists_are_alike() -> None:
    found = likeness([("a", 2.0), ("b", 1.0)], [("a", 2.0), ("b", 1.0)], 2)
    assert (found.jaccard, found.kl, found.top_rank, found.ndcg) == (1, 0, 0, 1)
    apart = likeness([("a", 2.0)], [("b", 2.0)], 1)
    assert (apart.jaccard, apart.kl, apart.top_rank, apart.top_prob, apart.ndcg) == (0, 0, 1, 0, 0)


def test_pooled_shares_are_shares_over_all_trials() -> None:
    found = statistics.pooled_share([1, 0, 3], [2, 0, 3])
    assert found is not None
    assert (found.value, found.n) == (0.8, 5)
    alone = statistics.pooled_share([1] * 30 + [0] * 10, [1] * 40)
    assert alone is not None
    assert alone[1:3] == statistics.clopper_pearson(30, 40)
    # Answers that are all of one class know less than as many independent tokens.
    together = statistics.pooled_share([10] * 3 + [0], [10] * 4)
    assert together is not None
    assert together.low < statistics.clopper_pearson(30, 40)[0]
    assert together.high <= 1
    assert statistics.pooled_share([0], [0]) is None


# --- two models ------------------------------------------------------------------------------------------------------


def test_a_model_against_itself_is_unshifted() -> None:
    model = small()
    result = shift(model, model, top=5)
    assert result.figures["unshifted"].value == 1
    assert result.figures["shifted"].value == result.figures["shifted_early"].value == 0
    assert result.figures["argmax_differs"].value == 0
    assert result.figures["kl_shared"].value == pytest.approx(0, abs=1e-6)
    assert result.figures["jaccard"].value == 1
    assert result.figures["lost"].value == pytest.approx(0, abs=1e-6)
    assert result.differences is not None
    assert result.differences["unshifted"].value == 0


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_one_pass_gives_what_a_pass_for_each_token_gives(architecture: str) -> None:
    aligned = Model(tiny.network(architecture, seed=1), tiny.tokenizer())
    base = Model(tiny.network(architecture, seed=2), tiny.tokenizer())
    result = shift(aligned, base, top=4)
    total = dict.fromkeys(CLASSES, 0)
    jaccard = lost = 0.0
    for row in result.samples:
        [answer] = aligned.generate(row["prompt"], max_new_tokens=12)
        assert row["answer"] == answer.text
        prompt = base.encode_prompt(row["prompt"])
        for at, token in enumerate(answer.tokens):
            with torch.no_grad():
                theirs, mine = (
                    one.weights(torch.tensor([prompt + answer.tokens[:at]])).logits[0, -1] for one in (base, aligned)
                )
            rank = int((theirs > theirs[token]).sum()) + 1
            assert row["ranks"][at] == rank
            assert row["base_top"][at] == pytest.approx(float(theirs.softmax(0).max()), abs=1e-4)
            assert int(mine.argmax()) == token
            total[shift_class(rank)] += 1
            found = [[(int(i), float(v)) for v, i in zip(*scores.topk(4))] for scores in (theirs, mine)]
            one, two = likeness(*found, 4), likeness(found[1], found[1], 4)
            jaccard += one.jaccard
            lost += two.top_prob - one.top_prob
    count = sum(total.values())
    for name in CLASSES:
        assert result.figures[name].value == pytest.approx(total[name] / count)
        assert result.figures[name].low <= total[name] / count <= result.figures[name].high
    assert result.figures["jaccard"].value == pytest.approx(jaccard / count)
    assert result.figures["lost"].value == pytest.approx(lost / count, abs=1e-5)
    assert sum(result.figures[name].value for name in CLASSES) == pytest.approx(1)


def test_two_passes_an_answer_whatever_its_length() -> None:
    model, base = small(1), small(2)
    usage = shift(model, base, max_new_tokens=30).usage
    # One over the prompts and one over the answers.
    assert usage["calls"]["base"] == 2
    assert usage["calls"]["model"] <= 30 + 2


def test_positions_are_drawn_and_add_up(tmp_path) -> None:
    result = shift(small(1), small(2), max_new_tokens=25)
    assert [curve.name.split()[0] for curve in result.curves] == list(CLASSES)
    for at in range(10):
        assert sum(curve.points[at][1].value for curve in result.curves) == pytest.approx(1)
    assert [place for place, _ in result.curves[0].points] == [10.0 * at for at in range(10)]
    early = sum(rank > 3 for row in result.samples for rank in row["ranks"][: -(-row["length"] // 5)])
    assert result.figures["shifted_early"].value * result.figures["shifted_early"].n == pytest.approx(early)
    assert result.figures["shifted_early"].n + result.figures["shifted_late"].n == result.figures["shifted"].n
    result.save(tmp_path / "shift.json")
    assert Result.load(tmp_path / "shift.json").curves == result.curves


class Forbids(LogitsModifier):
    """A token that is never chosen."""

    token: int

    def adjust(self, logits, prefixes, session):
        logits = logits.clone()
        logits[:, self.token] = -math.inf
        return logits


def test_modifiers_act_on_either_side() -> None:
    model = small(1)
    [answer] = model.generate(ROWS[0]["prompt"], max_new_tokens=1)
    forbidding = model.with_modifier(Forbids(token=answer.tokens[0]))
    rows = {"records": ROWS[:1], "max_new_tokens": 2}
    assert shift(forbidding, model, **rows).samples[0]["ranks"][0] == 2
    assert shift(model, forbidding, **rows).samples[0]["ranks"][0] == 320


def test_each_model_reads_its_own_prompt() -> None:
    base = small(1, max_position_embeddings=512)
    shown = URIAL(examples=[{"prompt": "the bird?", "completion": "red"}], instruction="look").align(base)
    row = shift(shown, base).samples[2]
    [answer] = shown.generate(row["prompt"], max_new_tokens=12)
    with torch.no_grad():
        scores = base.weights(torch.tensor([base.encode_prompt(row["prompt"]) + answer.tokens[:3]])).logits[0, -1]
    assert row["ranks"][3] == int((scores > scores[answer.tokens[3]]).sum()) + 1


def test_a_search_gives_its_answers_and_no_argmax() -> None:
    base = load("sandbox/small")
    nudged = Nudging(guide=load("sandbox/guide")).align(base)
    result = measure(TokenShift(limit=10, split="dev"), nudged, base)
    assert "argmax_differs" not in result.figures
    assert any("search" in note for note in result.notes)
    # Where the base itself wrote, its own choice stands first.
    share = sum(found.trace["nudged_share"] * len(found.tokens) for found in nudged.generate(
        [row["prompt"] for row in result.samples], max_new_tokens=64))  # fmt: skip
    changed = sum(rank > 1 for row in result.samples for rank in row["ranks"])
    assert changed <= share + len(result.samples)


def test_tuning_shifts_the_beginning_of_answers_where_the_base_is_unsure() -> None:
    base = load("sandbox/small")
    tuned = SFT(learning_rate=5e-4, batch_size=16, max_steps=12).align(base, sandbox.records("demonstrations", n=192))
    result = measure(TokenShift(limit=40, split="dev"), tuned, base)
    assert result.figures["unshifted"].value > 0.75
    assert result.figures["shifted_early"].value > result.figures["shifted_late"].value
    tops = [(top, rank) for row in result.samples for top, rank in zip(row["base_top"], row["ranks"])]
    moved, kept = ([top for top, rank in tops if (rank > 1) == wanted] for wanted in (True, False))
    assert sum(moved) / len(moved) < sum(kept) / len(kept)
    assert any(note.startswith("Commonest shifted tokens: ") for note in result.notes)
    assert any(note.startswith("The base is unsure (highest probability below 0.4) at ") for note in result.notes)


def test_answers_of_one_prompt_are_one_cluster() -> None:
    twice = shift(small(1), small(2), records=[*ROWS, *ROWS])
    once = shift(small(1), small(2))
    assert twice.figures["shifted"].value == pytest.approx(once.figures["shifted"].value)
    width = [figure.high - figure.low for figure in (twice.figures["shifted"], once.figures["shifted"])]
    assert width[0] > 0.9 * width[1]


def test_a_killed_measure_repeats_nothing(tmp_path) -> None:
    model, base = small(1), small(2)
    first = TokenShift(records=ROWS, max_new_tokens=8).measure(model, base, out=tmp_path)
    again = TokenShift(records=ROWS, max_new_tokens=8).measure(model, base, out=tmp_path)
    assert again.usage["calls"] == {}
    assert again.samples == first.samples


def test_in_the_report_and_on_the_terminal(tmp_path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    words = ["measure", "token_shift", "--model", "sandbox/guide", "--against", "sandbox/small", "--limit", "10"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    table = done.output[done.output.index("% of the answer") :].splitlines()
    assert [line.split()[0] for line in table[1:11]] == [f"{10 * at}" for at in range(10)]
    recipe = tmp_path / "one.yaml"
    recipe.write_text(
        "model: sandbox/small\nsteps:\n  - system_message: {text: Be careful and polite.}\n"
        "measures:\n  - token_shift: {limit: 10}\nside_effects: false\n"
    )
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("% of the answer</text>") == 3


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared() -> None:
    with pytest.raises(SettingsError, match="compares two models"):
        measure(TokenShift(records=ROWS), small())
    other = Model(tiny.network(vocabulary=300), tiny.tokenizer(300), source="other")
    with pytest.raises(UnsupportedError, match="different vocabularies"):
        shift(small(), other)
    with pytest.raises(UnsupportedError, match="needs logits"):
        shift(Scripted(lambda prompt: "x"), small())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top": 0}, "top is"), ({"unsure": 1.5}, "unsure is"), ({"temperature": 0.5}, "greedy"), ({"limit": 0}, "limit")],
)
def test_settings_that_cannot_work(settings: Settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        shift(small(), small(), **settings)
