from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from truing.catalogue import entries
from truing.cli import align, measuring
from truing.cli.settings import given_settings
from truing.contracts import Reward, Settings
from truing.errors import SettingsError


class Example(Settings):
    """An example.

    Args:
        beta: how much.
    """

    beta: float = 0.1
    learning_rate: float = 1e-4
    shuffle: bool = True
    layers: list[int] | None = None
    loss: str | dict[str, float] = "sigmoid"
    text: str = ""
    reward: Reward | None = None
    no_repeat: int = 0


def given(*words: str) -> dict[str, Any]:
    return given_settings(words, Example, "example", ("records", "out"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--beta", "0.3"], {"beta": "0.3"}),
        (["--beta=0.3", "--learning-rate", "1e-4"], {"beta": "0.3", "learning_rate": "1e-4"}),
        (["--learning_rate=2"], {"learning_rate": "2"}),
        (["--beta", "-1.5"], {"beta": "-1.5"}),
        (["--shuffle"], {"shuffle": True}),
        (["--no-shuffle", "--beta", "1"], {"shuffle": False, "beta": "1"}),
        (["--shuffle", "no"], {"shuffle": "no"}),
        (["--no-repeat", "3"], {"no_repeat": "3"}),
        (["--layers", "1,2"], {"layers": "1,2"}),
        (["--layers", "1", "--layers", "2"], {"layers": ["1", "2"]}),
        (["--layers", "[1, 2]"], {"layers": [1, 2]}),
        (["--loss", '{"sigmoid": 1.0, "sft": 0.5}'], {"loss": {"sigmoid": 1.0, "sft": 0.5}}),
        (["--loss", "{sigmoid: 1, sft: 0.5}"], {"loss": {"sigmoid": 1, "sft": 0.5}}),
        (["--reward", "keyword"], {"reward": "keyword"}),
        (["--reward", "{keyword: {words: [please]}}"], {"reward": {"keyword": {"words": ["please"]}}}),
        (["--text", "[INST] {x}"], {"text": "[INST] {x}"}),
        (["--text", ""], {"text": ""}),
        (["--text=--beta"], {"text": "--beta"}),
    ],
)
def test_what_is_typed(words: list[str], expected: dict[str, Any]) -> None:
    assert given(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--bta", "0.3"], "Did you mean --beta?"),
        (["--recrods", "x"], "Did you mean --records?"),
        (["--learning-rates", "x"], "Did you mean --learning-rate?"),
        (["--zzzz", "x"], "Settings of `example`: beta, learning_rate"),
        (["--beta"], "--beta needs a value: --beta NUMBER"),
        (["--beta", "--shuffle"], "--beta needs a value"),
        (["0.3"], "`0.3` stands where a setting is expected"),
        (["-b", "0.3"], "`-b` stands"),
        (["--beta", "1", "--beta", "2"], "--beta is given twice"),
        (["--loss", "{sigmoid: "], "--loss"),
        (["--loss", "{a: !!python/object:os.system x}"], "--loss"),
    ],
)
def test_what_cannot_be_meant(words: list[str], expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        given(*words)
    assert expected in str(error.value)


@pytest.mark.parametrize(("kind", "own"), [("method", align.OWN), ("measure", measuring.OWN)])
def test_no_setting_is_hidden_by_an_option_of_the_command(kind: str, own: tuple[str, ...]) -> None:
    shared = {"limit"}  # `measure --limit` sets it
    for entry in entries(kind):
        fields = {field.name.replace("_", "-") for field in dataclasses.fields(entry.load())}
        assert not fields & set(own) - shared, entry.name
