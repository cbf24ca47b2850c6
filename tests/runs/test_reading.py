from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import RecipeError
from truing.runs.overrides import apply_overrides
from truing.runs.reading import Source, read_text
from truing.runs.schema import FIELDS

TEXT = """\
# a comment
model: sandbox/base
steps:
  - sft: {records: a.jsonl}
  - dpo:
      records: b.jsonl
      beta: 0.1
  - dpo: {records: c.jsonl}
measures: [hhh, {perplexity: {limit: 5}}]
seed: 3
"""


def source() -> Source:
    return read_text(TEXT, "r.yaml")


def test_every_value_knows_its_line() -> None:
    read = source()
    assert read.value == yaml.safe_load(TEXT)
    assert read.lines[("model",)] == 2
    assert read.lines[("steps", 1, "dpo", "beta")] == 7
    assert read.where(("steps", 1, "dpo", "beta", "deeper")) == "r.yaml, line 7"
    assert read.where(("nowhere",)) == "r.yaml, line 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nmodel: b\n", "line 2: `model` is given twice; the first is on line 1"),
        ("model: a\nx: !!python/object/apply:os.system ['true']\n", "line 2"),
        ("model: !!python/name:os.system\n", "line 1"),
        ("a: &x [1]\nb: *x\n", "no YAML aliases"),
        ("a: &x [*x]\n", "no YAML aliases"),
        ("model: [1, 2\nsteps: 3\n", "not readable YAML"),
        ("model: a\n---\nmodel: b\n", "not readable YAML"),
        ("1: a\n? [x]\n: b\n", "a key must be a word"),
        ("a: \x00b\n", "not readable YAML"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: [" + "1," * 20_000 + "]", "10,000 values at most"),
        ("model: 2024-99-99\n", "cannot be read"),
    ],
)
def test_bad_yaml_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=r"^r\.yaml") as caught:
        read_text(text, "r.yaml")
    assert message in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_gives_values_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        read_text(text, "r.yaml")


def test_dates_stay_text() -> None:
    assert read_text("name: 2024-01-02", "r").value == {"name": "2024-01-02"}


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("model=a=b", ("model",), "a=b"),
        ("report=false", ("report",), False),
        ("sft.records=x.jsonl", ("steps", 0, "sft", "records"), "x.jsonl"),
        ("steps.2.beta=0.5", ("steps", 1, "dpo", "beta"), 0.5),
        ("steps.3.dpo.beta=0.5", ("steps", 2, "dpo", "beta"), 0.5),
        ("steps.sft.epochs=2", ("steps", 0, "sft", "epochs"), 2),
        ("perplexity.limit=9", ("measures", 1, "perplexity", "limit"), 9),
        ("hhh.limit=9", ("measures", 0, "hhh", "limit"), 9),
        ("measures=[hhh]", ("measures",), ["hhh"]),
        ("sft.reward.keyword.words=[a, b]", ("steps", 0, "sft", "reward", "keyword", "words"), ["a", "b"]),
    ],
)
def test_overrides_reach_their_place(override: str, path: tuple[str | int, ...], value: object) -> None:
    read = source()
    apply_overrides(read, [override], FIELDS)
    found = read.value
    for key in path:
        found = found[key]
    assert found == value
    assert read.where(path) == f"--set {override}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "an override is `key=value`"),
        ("=3", "an override is `key=value`"),
        ("dpo.beta=0.2", "`steps.2.beta`, `steps.3.beta`"),
        ("sed=1", "Did you mean `seed`"),
        ("sftt.epochs=1", "Did you mean `sft`"),
        ("steps.9.beta=1", "no entry 9"),
        ("model.x=1", "is a value and holds no settings"),
        ("sft.records.0.x=1", "is a value and holds no settings"),
        ("seed=[1", "not readable YAML"),
    ],
)
def test_bad_overrides_say_what_to_write(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        apply_overrides(source(), [override], FIELDS)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--set ")


@given(st.text(max_size=30))
def test_any_override_is_applied_or_refused(text: str) -> None:
    read = source()
    with contextlib.suppress(RecipeError):
        apply_overrides(read, [text], FIELDS)
