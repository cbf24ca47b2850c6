"""Suites: how folders are read, how items are graded, and what follows from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.measures.models import Scripted
from truing import Suite, load, measure
from truing.errors import RecordError, SettingsError
from truing.measures.normalise import normalise
from truing.measures.suite import parallel
from truing.measures.suite_files import read_suite, ready
from truing.sandbox.answers import ideal
from truing.sandbox.recognise import recognise
from truing.sandbox.world import world

HEAD: dict[str, Any] = {
    "name": "mine", "language": "en", "version": 1, "licence": "CC0-1.0", "script": "Latin",
    "refusals": ["will not help"],
}  # fmt: skip
SAFETY = {"name": "safety", "items": "safety.jsonl", "grade": "refusal", "sets": [{"name": "one"}, {"name": "two"}]}
FAIR = {"name": "fair", "items": "fair.jsonl", "grade": "options", "sets": [{"name": "all"}]}
BESIDE = {"name": "beside", "items": "beside.jsonl", "grade": "refusal", "control": True, "sets": [{"name": "ok"}]}


def item(name: str, of: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "set": of, "origin": "written", "category": "c", "prompt": f"Please do {name}.", **more}


def folder(tmp_path: Path, several: Any, rows: dict[str, list[Any]], **head: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    text = yaml.safe_dump({**HEAD, "dimensions": several, **head}, allow_unicode=True)
    (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
    for name, some in rows.items():
        lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in some]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    rows = {
        "safety": [*(item(f"a{at}", "one") for at in range(10)), *(item(f"b{at}", "two") for at in range(30))],
        "fair": [item(f"f{at}", "all", choices=["yes", "no"], target="no") for at in range(6)],
        "beside": [item(f"h{at}", "ok") for at in range(5)],
    }
    return folder(tmp_path / "mine", [SAFETY, FAIR, BESIDE], rows)


def always(text: str) -> Scripted:
    return Scripted(lambda prompt: text)


def test_refusing_all_is_safe_and_shown_beside(mine: Path) -> None:
    found = measure(Suite(path=mine), always("I will not help.")).figures
    assert found["safety"].value == 1
    assert found["beside"].value == 1
    assert found["beside"].better == "lower"
    assert "fair" not in found
    assert "total" not in found
    comply = measure(Suite(path=mine), always("Gladly.")).figures
    assert comply["safety"].value == comply["beside"].value == 0


def _share(good: dict[str, float]) -> Callable[[Any], str]:
    def answer(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        found = re.search(r"do ([a-z])(\d+)", text)
        assert found
        if "A)" in text:
            return next(line[0] for line in text.splitlines() if line.endswith(") no"))
        return "I will not help." if int(found[2]) < good[found[1]] else "Gladly."

    return answer


def test_a_dimension_is_the_mean_of_its_sets(mine: Path) -> None:
    model = Scripted(_share({"a": 8, "b": 12, "h": 1}))  # 0.8 of 10 and 0.4 of 30
    result = measure(Suite(path=mine), model)
    values = {name: figure.value for name, figure in result.figures.items()}
    assert values["safety"] == pytest.approx(0.6)
    assert values["safety_by_items"] == pytest.approx(0.5)
    assert values["safety_one"] == pytest.approx(0.8)
    assert values["total"] == pytest.approx((0.6 + 1) / 2)
    assert values["beside"] == pytest.approx(0.2)
    assert result.figures["safety"].low < 0.6 < result.figures["safety"].high
    assert values["answered"] == 1
    assert result.grids[0].radar


def test_order_changes_nothing_and_a_doubled_set_only_the_weighted_mean(mine: Path, tmp_path: Path) -> None:
    model = Scripted(_share({"a": 8, "b": 12, "h": 1}))
    before = measure(Suite(path=mine), model).figures
    lines = (mine / "safety.jsonl").read_text().splitlines()
    (mine / "safety.jsonl").write_text("\n".join(lines[::-1]))
    turned = measure(Suite(path=mine), model).figures
    assert {name: one.value for name, one in turned.items()} == pytest.approx({n: o.value for n, o in before.items()})
    again = [{**json.loads(line), "id": json.loads(line)["id"] + "x"} for line in lines if '"two"' in line]
    (mine / "safety.jsonl").write_text("\n".join([*lines, *map(json.dumps, again)]))
    doubled = measure(Suite(path=mine), model)
    assert doubled.figures["safety"].value == pytest.approx(0.6)
    assert doubled.figures["safety_by_items"].value == pytest.approx((8 + 24) / 70)
    assert any("30 questions stand twice" in note for note in doubled.notes)


def test_no_answer_and_another_language_are_never_safe(tmp_path: Path) -> None:
    rows = {"safety": [item("a1", "one"), item("a2", "one"), item("a3", "two"), item("a4", "two")]}
    path = folder(tmp_path, [SAFETY], rows, script="Arabic", refusals=["کمک نمی‌کنم"])
    said = {"a1": "I will not help.", "a2": " ", "a3": "كمك نمي‌کنم.", "a4": "باشد."}
    model = Scripted(lambda prompt: next(text for name, text in said.items() if name in prompt))
    result = measure(Suite(path=path), model)
    assert result.figures["answered"].value == 0.75
    assert result.figures["language_kept"].value == pytest.approx(2 / 3)
    assert "safety_one" not in result.figures
    assert result.figures["safety_two"].value == 0.5
    assert any("do not count: another language" in note for note in result.notes)
    assert any("refuses everything" in note for note in result.notes)


def test_exact_match_in_any_letters(tmp_path: Path) -> None:
    whole = {
        "name": "exact",
        "items": "exact.jsonl",
        "grade": "exact",
        "sets": [{"name": "in"}, {"name": "all", "match": "whole"}],
    }
    rows = [item(f"{of}{at}", of, answers=["نباشید", "45"]) for of in ("in", "all") for at in range(4)]
    path = folder(tmp_path, [whole], {"exact": rows}, script="Arabic")
    said = ["گفته می‌شود نباشيد.", "«نباشید»", "۴۵", "هیچ"]
    model = Scripted(lambda prompt: said[int(re.search(r"\d", prompt)[0])])  # type: ignore[index]
    found = measure(Suite(path=path), model).figures
    assert found["exact_in"].value == 0.75
    assert found["exact_all"].value == 0.5


def test_a_judge_answers_the_sets_question(tmp_path: Path) -> None:
    judged = {
        "name": "norm", "items": "norm.jsonl", "grade": "judge", "question": "Is it kind?", "unclear": True,
        "sets": [{"name": "kind"}, {"name": "mean", "good": False, "question": "Is it mean?"}],
    }  # fmt: skip
    rows = [item(f"{of}{at}", of, expected="warmly") for of in ("kind", "mean") for at in range(4)]
    path = folder(tmp_path, [judged], {"norm": rows})
    asked: list[str] = []

    def judge(questions: Any, prompts: Any, answers: Any) -> list[Any]:
        asked.extend(questions)
        return [[True, 0.5, None, False][int(prompt[-2])] for prompt in prompts]

    result = measure(Suite(path=path, judge=judge), always("x"))
    assert result.figures["norm_kind"].value == 0.5
    assert result.figures["norm_mean"].value == 0.5
    assert result.figures["norm_kind"].n == 3
    assert set(asked) == {"Is it kind? (warmly)", "Is it mean? (warmly)"}
    with pytest.raises(SettingsError, match="graded by a judge"):
        measure(Suite(path=path), always("x"))
    model = Scripted(lambda text: "Verdict: unclear", name="judge")
    assert measure(Suite(path=path, judge=model), always("x")).figures["norm"].value == 0.5


def test_without_a_judge_words_that_decline_are_looked_for(tmp_path: Path) -> None:
    judged = {**SAFETY, "grade": "judge", "question": "Harm?", "good": "no"}
    rows = [item(f"a{at}", "one" if at < 2 else "two", expected="refuse") for at in range(4)]
    path = folder(tmp_path, [judged], {"safety": rows})
    result = measure(Suite(path=path), Scripted(lambda prompt: "I will not help." if "a1" in prompt else "Sure."))
    assert result.figures["safety_one"].value == 0.5
    assert any("since there is no judge" in note for note in result.notes)
    bare = folder(tmp_path / "bare", [judged], {"safety": rows}, refusals=[])
    with pytest.raises(RecordError, match="`refusals` names none"):
        measure(Suite(path=bare), always("x"))


def test_limit_and_dimensions(mine: Path) -> None:
    rows = measure(Suite(path=mine, limit=8), Scripted(_share({"a": 8, "b": 12, "h": 1}))).samples
    assert len(rows) == 8
    assert {row["set"] for row in rows} == {"one", "two", "all", "ok"}
    only = measure(Suite(path=mine, dimensions=["safety"]), always("x"))
    assert {row["dimension"] for row in only.samples} == {"safety"}
    with pytest.raises(SettingsError, match="It has: safety, fair, beside"):
        measure(Suite(path=mine, dimensions=["peace"]), always("x"))


# --- what is wrong with a folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "dimension", "rows", "message"),
    [
        ({"langauge": "en"}, {}, None, "suite.yaml: there is no field `langauge`. Did you mean `language`"),
        ({"licence": None}, {}, None, "suite.yaml: field `licence`"),
        ({"direction": "up"}, {}, None, "suite.yaml: field `direction` is one of ltr, rtl; it is 'up'"),
        ({"script": "Elvish"}, {}, None, "field `script` is a Unicode script"),
        ({"letters": ["A", "A"]}, {}, None, "field `letters`"),
        ({"dimensions": []}, {}, None, "field `dimensions` is a list of at least one"),
        ({}, {"name": "Safety First"}, None, "dimension 1: field `name` is a name of small Latin letters"),
        ({}, {"grade": "guess"}, None, "set 1: field `grade` is one of options, exact, judge, refusal; it is 'guess'"),
        ({}, {"grade": "judge"}, None, "set 1: field `question` is what the judge is asked"),
        ({}, {"items": "../x.jsonl"}, None, "field `items` is the name of a .jsonl file"),
        ({}, {"items": "none.jsonl"}, None, "none.jsonl cannot be read"),
        ({}, {"sets": [{"name": "one"}, {"name": "one"}]}, None, "set 2: field `name`: `one` stands twice"),
        ({}, {"sets": [{"name": "one"}, {"name": "empty"}]}, None, "`empty` has no item"),
        ({}, {"control": True, "grade": "options"}, None, "field `grade` of a control"),
        ({}, {}, ["{"], "safety.jsonl, line 1: no JSON"),
        ({}, {}, ["[1]"], "safety.jsonl, line 1: a line is a JSON object"),
        ({}, {}, [], "safety.jsonl holds no item"),
        ({}, {}, [item("a", "one"), "", item("a", "one")], "two items have the id `a`"),
        ({}, {}, [item("a", "one"), "", item("b", "three")], "line 3: field `set` is one of one; it is 'three'"),
        ({}, {}, [{**item("a", "one"), "prompt": " "}], "line 1: field `prompt`"),
        ({}, {}, [{**item("a", "one"), "prompt": [{"role": "x", "content": "y"}]}], "line 1: field `prompt`"),
        ({}, {}, [{**item("a", "one"), "origin": "found"}], "field `origin` is one of written, translated"),
        ({}, {}, [{**item("a", "one"), "catgeory": "x"}], "no field `catgeory`. Did you mean `category`"),
        ({}, {"grade": "options"}, [item("a", "one")], "field `choices` is a list of 2"),
        ({}, {"grade": "options"}, [item("a", "one", choices=["x", "y"], target=2)], "field `target` is the right one"),
        ({}, {"grade": "options"}, [item("a", "one", choices=["x", "y"])], "field `target` is missing"),
        ({}, {"grade": "exact"}, [item("a", "one")], "field `answers` is a list of right answers"),
    ],
)  # fmt: skip
def test_faults_are_named_with_file_line_and_field(
    tmp_path: Path, head: Any, dimension: Any, rows: Any, message: str
) -> None:
    one = {**SAFETY, "sets": [{"name": "one"}], **dimension}
    path = folder(tmp_path, [one], {"safety": [item("a", "one")] if rows is None else rows}, **head)
    with pytest.raises(RecordError, match=re.escape(message)):
        read_suite(path)


def test_no_such_suite_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is no folder.*english, persian, sandbox"):
        measure(Suite(path="klingon"), always("x"))
    (tmp_path / "suite.yaml").write_text("name: x\n  y: [\n")
    with pytest.raises(RecordError, match=r"suite.yaml, line 2: no YAML"):
        read_suite(tmp_path)
    (tmp_path / "suite.yaml").write_text("- 1\n")
    with pytest.raises(RecordError, match="holds no fields"):
        read_suite(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"judge": 3}, "judge"), ({"reading": "x"}, "reading"), ({"limit": 0}, "limit"), ({"dimensions": "x"}, "list"),
     ({"seed": -1}, "seed"), ({"path": ""}, "path"), ({"max_new_tokens": 0}, "max_new_tokens")],
)  # fmt: skip
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        measure(Suite(**settings), always("x"))


# --- suites that come with the package --------------------------------------------------------------------------------


def test_ready_suites_are_whole() -> None:
    for name in ready():
        suite = read_suite(name)
        assert suite.name == name
        assert not suite.doubles()
        assert any(one.control for one in suite.dimensions.values())
    persian, english = read_suite("persian"), read_suite("english")
    assert persian.direction == "rtl"
    assert [name for name, one in persian.dimensions.items() if not one.control] == [
        "safety",
        "fairness",
        "social_norm",
    ]
    known = {one.id: one for one in english.items}
    shared = [one for one in persian.items if one.source_id]
    assert {one.source_id for one in shared} == set(known)
    for one in shared:
        assert (one.set, one.target, len(one.choices)) == (
            known[one.source_id].set, known[one.source_id].target, len(known[one.source_id].choices),
        )  # fmt: skip
    # Written with the letters of Persian, so that models see what people there write.
    for one in persian.items:
        assert not re.search("[يك]", str(one.prompt))
        assert normalise(str(one.prompt))


def test_two_languages_are_paired_by_item() -> None:
    def right(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        wanted = next((one.choices[one.target] for one in items if one.choices and one.prompt in text), None)
        if wanted is None:
            return ("کمک نمی‌کنم" if re.search("[ا-ی]", text) else "I won't help") + "."
        return next(line.split(")")[0] for line in text.splitlines() if line.endswith(f") {wanted}"))

    items = [*read_suite("persian").items, *read_suite("english").items]
    persian = measure(Suite(path="persian"), Scripted(right))
    english = measure(Suite(path="english"), Scripted(right))
    assert persian.figures["fairness"].value == persian.figures["safety"].value == 1
    same = parallel(persian, english)
    assert same.value == 0
    assert same.n == 23
    assert same.p == 1
    with pytest.raises(RecordError, match="share no `source_id`"):
        parallel(persian, measure(Suite(path="sandbox", limit=4), Scripted(lambda prompt: "x")))


def test_the_sandbox_suite_has_a_ground_truth() -> None:
    def answer(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if "\nA) " in text:
            return next(line[0] for line in text.splitlines() if ") I do not know" in line) + ")"
        found = recognise(text)
        assert found is not None
        import random

        return ideal(world(0), found, random.Random(0))

    found = measure(Suite(path="sandbox"), Scripted(answer)).figures
    for name in ("total", "safety", "fairness", "knowledge"):
        assert found[name].value == pytest.approx(1), name
    assert found["over_refusal"].value == 0


def test_alignment_is_seen_and_the_command_line_takes_a_folder(mine: Path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    result = measure(Suite(path="sandbox", limit=40), load("sandbox/guide"), load("sandbox/small"))
    assert result.differences is not None
    assert result.differences["total"].low > 0
    done = CliRunner().invoke(
        app, ["measure", "suite", "--path", str(mine), "--model", "sandbox/small", "--limit", "8"]
    )
    assert done.exit_code == 0, done.output
    assert "beside, refused: lower is better" in done.output
    done = CliRunner().invoke(app, ["measure", "suite", "--path", "klingon", "--model", "sandbox/small"])
    assert isinstance(done.exception, RecordError)


def test_the_example_of_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (rows,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
    named = {"safety": "direct", "norms": "manners|sayings", "harmless": "harmless"}
    for name, sets in named.items():
        some = [line for line in rows.splitlines() if re.search(f'"set": "({sets})"', line)]
        lines = some or [json.dumps(item("h", "harmless"))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    suite = read_suite(tmp_path)
    assert [one.id for one in suite.items] == ["direct-1", "manners-1", "sayings-1", "h"]
    found = measure(Suite(path=tmp_path), Scripted(lambda prompt: "Dabei helfe ich nicht. A) Guten Tag. Appetit"))
    assert found.notes
