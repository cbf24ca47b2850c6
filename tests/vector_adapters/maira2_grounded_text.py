"""maira2-grounded-text.json: the text form of grounded reports, and boxes on the image before it was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.errors import RecordError
from truing.records.grounded_text import parse, to_original

Values = dict[str, Any]


def parsed(inputs: Values, given: Values) -> Values:
    try:
        found = parse(inputs["text"], given["bins"])
    except RecordError:
        return {"kind": "error"}
    if isinstance(found, str):
        return {"kind": "plain", "text": found}
    phrases = [{"text": one.text, "boxes": one.boxes and [list(box) for box in one.boxes]} for one in found]
    return {"kind": "grounded", "phrases": phrases}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "parse_grounded_text": parsed,
    "box_to_original_image": lambda inputs, given: {
        "box": list(to_original(tuple(inputs["box"]), inputs["width"], inputs["height"]))
    },
}
