from __future__ import annotations

import pytest

from truing.errors import SettingsError
from truing.settings_parse import parse_value


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        ("float", "0.1", 0.1),
        ("float", 1, 1.0),
        ("int | None", "none", None),
        ("int | None", "7", 7),
        (int, 3.0, 3),
        ("bool", "no", False),
        ("Literal['mean', 'sum']", "sum", "sum"),
        ("str | dict[str, float]", '{"sigmoid": 1}', {"sigmoid": 1.0}),
        ("str | dict[str, float]", "sigmoid", "sigmoid"),
        ("list[int]", "1,2", [1, 2]),
        ("tuple[str, ...]", '["a,b"]', ("a,b",)),
        ("Optional[float]", None, None),
        ("str", "5", "5"),
    ],
)
def test_values_fit_their_annotation(annotation: object, given: object, expected: object) -> None:
    value = parse_value(annotation, given, "--x")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        ("float", "warm"),
        ("int", 1.5),
        ("int", True),
        ("int", float("inf")),
        ("bool", 2),
        ("Literal['a']", "b"),
        ("dict[str, float]", "{"),
        ("tuple[int, int]", "1"),
        ("str", 5),
    ],
)
def test_what_does_not_fit_names_the_place_and_the_type(annotation: str, given: object) -> None:
    with pytest.raises(SettingsError, match="--x takes"):
        parse_value(annotation, given, "--x")
