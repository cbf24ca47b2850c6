"""Settings that are models, in recipes and on the command line: one, a list of them, and those read from folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from truing import catalogue
from truing.catalogue import Entry
from truing.cli.settings import given_settings
from truing.contracts import Method, require
from truing.errors import ModelError, RecipeError
from truing.models import Model
from truing.runs import parse
from truing.runs.resolve import build_method


class Committee(Method):
    """Holds models.

    Args:
        members: loaded ones.
        folders: read by the method itself.
    """

    members: list[Model] | None = None
    folders: list[Model | str | Path] | None = None

    def validate(self) -> None:
        """Refuse names where models belong."""
        super().validate()
        require(not any(isinstance(member, str) for member in self.members or ()), "members are models, not names.")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("committee", "method", f"{__name__}:Committee", "Holds models.", "training")
    monkeypatch.setattr(catalogue, "_REGISTERED", [entry])


def made(settings: str, load: Any = None) -> Any:
    recipe, source = parse(f"model: sandbox/base\nsteps:\n  - committee: {settings}\n", "r.yaml")
    return build_method(recipe.steps[0], recipe, source, 0, load)


@pytest.mark.parametrize("written", ["[a, b]", "'a, b'"])
def test_each_model_of_a_list_is_loaded_and_validated_only_then(written: str) -> None:
    loaded: list[str] = []

    def load(name: str) -> tuple[str]:
        loaded.append(name)
        return (name,)

    assert made(f"{{members: {written}}}").members == ["a", "b"]
    assert made(f"{{members: {written}}}", load).members == [("a",), ("b",)]
    assert loaded == ["a", "b"]


def test_what_also_takes_a_path_is_left_to_the_method() -> None:
    def load(name: str) -> None:
        raise AssertionError(name)

    assert made("{folders: [out/a, sandbox/base]}", load).folders == ["out/a", "sandbox/base"]
    assert made("{folders: 'out/a,out/b'}", load).folders == ["out/a", "out/b"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{members: [a, 3]}", "`members` is a model: give its name or folder, not 3"),
        ("{members: 5}", "`members` takes list, not 5"),
        ("{folders: 5}", "`folders` takes list"),
    ],
)
def test_what_is_no_model_is_an_error_with_its_line(settings: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as caught:
        made(settings)
    assert str(caught.value).startswith("r.yaml, line 3")


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_line() -> None:
    def load(name: str) -> None:
        raise ModelError(f"no {name}")

    with pytest.raises(RecipeError, match="line 3: no a"):
        made("{members: [a, b]}", load)


@pytest.mark.parametrize(
    "words", [["--folders", "a,b"], ["--folders", "a", "--folders", "b"], ["--folders", "[a, b]"], ["--folders=a,b"]]
)
def test_a_list_of_models_on_the_command_line(words: list[str]) -> None:
    settings = given_settings(words, Committee, "committee", ("model", "out"))
    text = settings["folders"] if isinstance(settings["folders"], str) else str(settings["folders"])
    assert made(f"{{folders: {text!r}}}" if "[" not in text else f"{{folders: {text}}}").folders == ["a", "b"]
