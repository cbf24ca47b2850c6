"""A judge against people: figures by hand, planted biases found, an honest judge left in peace, and bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.measures.models import Scripted, lines
from truing import sandbox
from truing.contracts import Settings
from truing.errors import RecordError, SettingsError
from truing.measures.judge_agreement import JudgeAgreement
from truing.measures.run import measure
from truing.rewards.functions import AnswerLength
from truing.rewards.sandbox_judge import SandboxJudge


class Told(Settings):
    """A judge whose verdicts are written into the pairs.

    Args:
        verdicts: of each prompt, in the order chosen first and rejected first.
    """

    verdicts: dict[str, tuple[str | None, str | None]]

    def prefer(self, prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[str | None]:
        return [self.verdicts[prompt][int(one.startswith("bad"))] for prompt, one in zip(prompts, first)]


RIGHT, WRONG, FIRST, SECOND = ("first", "second"), ("second", "first"), ("first", "first"), ("second", "second")


def told(*verdicts: tuple[str | None, str | None], **more: Any) -> Any:
    rows = [
        {"prompt": str(at), "chosen": "good" + "!" * (at % 3), "rejected": "bad " + "!" * (at % 2)}
        for at in range(len(verdicts))
    ]
    judge = Told(verdicts={str(at): verdict for at, verdict in enumerate(verdicts)})
    return JudgeAgreement(judge=judge, records=rows, **more).measure()  # type: ignore[arg-type]


def test_figures_by_hand() -> None:
    found = told(*[RIGHT] * 12, *[WRONG] * 2, *[FIRST] * 4, *[SECOND] * 1, ("tie", "tie"), (None, "first"))
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["accuracy"] == pytest.approx((12 + 0.5 * 6) / 20)
    assert values["accuracy_decided"] == pytest.approx(12 / 14)
    assert values["first_place"] == pytest.approx((0.5 * 14 + 4) / 19)
    assert values["consistency"] == pytest.approx(15 / 20)
    assert values["accuracy_if_first"] == pytest.approx((12 + 4 + 0.5) / 20)
    assert values["accuracy_if_second"] == pytest.approx((12 + 1 + 0.5) / 20)
    assert values["unreadable"] == pytest.approx(1 / 21)
    # Both orders: 24 agreements in 40; chance is 0.5 * (28 / 40).
    assert values["cohen_kappa"] == pytest.approx((12 / 20 - 0.35) / 0.65)
    # Two raters: shares of A and B (20 + 14) / 80 each, of ties 12 / 80.
    chance = 2 * (34 / 80) ** 2 + (12 / 80) ** 2
    assert values["fleiss_kappa"] == pytest.approx((12 / 20 - chance) / (1 - chance))
    assert "1 of 42 verdicts could not be read; the 1 pairs they belong to do not count." in found.notes
    assert found.notes[0].startswith("The judge: Told(verdicts=")
    assert len(found.notes[0]) < 220
    assert found.samples[20]["grade"] == "not read"
    assert found.model == {}


def test_people_who_differ_set_what_can_be_reached() -> None:
    rows = [
        {"prompt": str(at), "chosen": "good", "rejected": "bad",
         "labels": ["chosen", "chosen", "rejected"] if at % 2 else ["chosen"] * 3}
        for at in range(20)
    ]  # fmt: skip
    judge = Told(verdicts={str(at): RIGHT for at in range(20)})
    found = JudgeAgreement(judge=judge, records=rows).measure()  # type: ignore[arg-type]
    # Of three pairs of people one agrees on odd items: (1 + 1/3) / 2; each answer has half of all mirrored verdicts.
    assert found.figures["people_kappa"].value == pytest.approx((2 / 3 - 0.5) / 0.5)
    assert found.figures["fleiss_kappa"].value == pytest.approx(((1 + 1 / 2) / 2 - 0.5) / 0.5)
    assert found.figures["cohen_kappa"].value == 1
    rows[3]["labels"] = ["chosen", "good"]
    with pytest.raises(RecordError, match=r"Record 4: the column `labels` holds .*chosen, rejected, tie"):
        JudgeAgreement(judge=judge, records=rows).measure()  # type: ignore[arg-type]


def test_labels_of_single_answers() -> None:
    rows = [{"prompt": f"q{at}", "completion": "x " * at, "label": at >= 8} for at in range(1, 17)]
    found = JudgeAgreement(judge=AnswerLength(target=16, tolerance=16), records=rows).measure()
    # The reward is 1 - (16 - at) / 16: above 0.5 from 9 words on, so only the answer of 8 is wrong.
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["accuracy"] == pytest.approx(15 / 16)
    assert values["accuracy_of_good"] == pytest.approx(8 / 9)
    assert values["accuracy_of_bad"] == 1
    counts = np.array([[8, 1], [0, 7]])
    chance = (9 * 8 + 7 * 8) / 256
    assert values["cohen_kappa"] == pytest.approx((counts.trace() / 16 - chance) / (1 - chance))
    lower = JudgeAgreement(judge=AnswerLength(target=16, tolerance=16), records=rows, threshold=0.4).measure()
    assert lower.figures["accuracy_of_good"].value == 1
    assert "Scores above 0.4 count as good (`threshold`)." in lower.notes


def test_a_model_is_the_judge_where_none_is_given(tmp_path: Path) -> None:
    def longer(text: str) -> str:
        first, second = (text.split(f"Answer {x}:\n> ")[1].split("\n")[0] for x in "AB")
        return f"Better: {'A' if len(first) > len(second) else 'B'}"

    rows = [
        {"prompt": f"q{at}", "chosen": "x" * (5 + at % 3), "rejected": "x" * 6 + "y" * (at % 2)} for at in range(20)
    ]
    able, unable = Scripted(longer, name="able"), Scripted(lambda text: "Both are fine.", name="unable")
    result = measure("judge_agreement", able, records=rows, out=tmp_path)  # type: ignore[arg-type]
    right = [
        1.0 if len(r["chosen"]) > len(r["rejected"]) else 0.0 if len(r["chosen"]) < len(r["rejected"]) else 0.5
        for r in rows
    ]
    assert result.figures["accuracy"].value == pytest.approx(np.mean(right))
    assert lines(tmp_path) == len(able.asked) == 37, "three pairs of equal answers are the same in both orders"
    lost = measure("judge_agreement", unable, records=rows)  # type: ignore[arg-type]
    assert list(lost.figures) == ["unreadable"]
    assert lost.figures["unreadable"].value == 1
    scores = [{"prompt": "q", "completion": text, "label": True} for text in "ab"]
    graded = measure("judge_agreement", Scripted(lambda text: "Score: 8"), records=scores)  # type: ignore[arg-type]
    assert graded.figures["accuracy"].value == 1
    assert "Scores above 5.5 count as good (`threshold`)." in graded.notes
    assert "`cohen_kappa` is not defined: all verdicts are of one kind." in graded.notes


PAIRS = sandbox.records("preferences", "test", 400, 0)


def sandboxed(**planted: float) -> dict[str, Any]:
    return JudgeAgreement(judge=SandboxJudge(skill=2, **planted), records=PAIRS).measure().figures


def test_planted_biases_are_found() -> None:
    place = sandboxed(position=1.0)
    assert place["first_place"].low > 0.5
    assert place["accuracy_if_first"].low > place["accuracy_if_second"].high
    length = sandboxed(length=1.0)
    assert length["length_effect"].low > 0
    assert length["accuracy_if_longer"].low > length["accuracy_if_shorter"].high
    assert length["first_place"].low < 0.5 < length["first_place"].high
    short = sandboxed(length=-1.0, position=-1.0)
    assert short["length_effect"].high < 0
    assert short["first_place"].high < 0.5


def test_an_honest_judge_is_left_in_peace() -> None:
    """Of honest judges one in twenty looks biased by chance, for each bias."""
    alarms = {"place": 0, "length": 0}
    for seed in range(20):
        judge = SandboxJudge(skill=2, seed=seed)
        figures = JudgeAgreement(judge=judge, records=PAIRS[:200]).measure().figures
        alarms["place"] += not figures["first_place"].low <= 0.5 <= figures["first_place"].high
        alarms["length"] += not figures["length_effect"].low <= 0 <= figures["length_effect"].high
    # Binomial(20, 0.05) goes beyond 4 in one of 400 worlds.
    assert alarms["place"] <= 4
    assert alarms["length"] <= 4


def test_sandbox_labels() -> None:
    rows = sandbox.records("labels", "test", 200, 0)
    found = JudgeAgreement(judge=SandboxJudge(skill=4), records=rows).measure().figures
    assert found["accuracy"].low > 0.9
    assert found["cohen_kappa"].low > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"judge": 3}, "judge is a Judge"), ({"threshold": "x"}, "threshold is a number"),
     ({"people": 3}, "name of a column"), ({"seed": -1}, "seed"), ({"limit": 0}, "limit"), ({"split": "all"}, "split")],
)  # fmt: skip
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        JudgeAgreement(**{"judge": SandboxJudge(), **settings}).measure()


def test_records_that_cannot_work() -> None:
    with pytest.raises(RecordError):
        JudgeAgreement(judge=SandboxJudge(), records=[{"prompt": "q", "answers": ["a"]}]).measure()
    with pytest.raises(SettingsError, match="asks no model"):
        JudgeAgreement(judge=SandboxJudge()).measure(Scripted(lambda text: ""))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="measures a model"):
        JudgeAgreement().measure()


def test_on_the_command_line_and_in_a_recipe(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    words = ["measure", "judge-agreement", "--judge", "{sandbox_judge: {skill: 2, position: 2}}", "--limit", "120"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["figures"]["first_place"]["low"] > 0.5
    assert "first place" in CliRunner().invoke(app, words).output
    recipe = CliRunner().invoke(app, ["run", "judge-agreement", "--out", str(tmp_path / "run")])
    assert recipe.exit_code == 0, recipe.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert "given data, no model" in page
    assert "accuracy at equal length" in page
