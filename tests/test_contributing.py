"""The worked example of CONTRIBUTING.md runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conformance import examples
from truing import catalogue
from truing.catalogue import Entry
from truing.models import load

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    return re.search(rf"<!-- example: {re.escape(name)} -->\n```python\n(.*?)```", TEXT, re.S)[1]


@pytest.fixture
def avoid_words(tmp_path, monkeypatch):
    (tmp_path / "avoid_words.py").write_text(block("avoid_words.py"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    for line in block("entries").replace("truing.methods.decoding.avoid_words", "avoid_words").splitlines():
        catalogue.register(eval(line, {"Entry": Entry}))
    yield catalogue.find("avoid-words", kind="method").load()
    sys.modules.pop("avoid_words", None)


def test_its_own_test_passes(avoid_words):
    names = {"AvoidWords": avoid_words}
    exec(block("test"), names)
    names["test_banned_words_are_never_written"](examples.model())


def test_it_saves_loads_and_stacks(avoid_words, tmp_path):
    aligned = examples.make(avoid_words).align(examples.model())
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.generate(examples.PROMPTS).texts == aligned.generate(examples.PROMPTS).texts
    assert again.history[-1].method == "avoid_words"
    assert aligned.unstack().history == ()


def test_a_name_cannot_be_taken_twice(avoid_words):
    with pytest.raises(catalogue.SettingsError, match="already"):
        catalogue.register(Entry("dpo", "method", "elsewhere:DPO", "Another."))


def test_the_objective_trains(tmp_path, monkeypatch):
    (tmp_path / "unlikelihood.py").write_text(block("unlikelihood.py"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import unlikelihood

    rows = [{"prompt": "the bird?", "rejected": ["it is grey", "it is the mat"]}]
    start = examples.model()
    aligned = unlikelihood.Unlikelihood(learning_rate=1e-2, max_steps=6, warmup_ratio=0.0).align(start, rows)
    for bad in rows[0]["rejected"]:
        assert aligned.logprobs(["the bird?"], [bad])[0] < start.logprobs(["the bird?"], [bad])[0] - 1
    sys.modules.pop("unlikelihood", None)
