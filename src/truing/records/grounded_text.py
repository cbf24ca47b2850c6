"""Grounded phrases: short texts, each with boxes on an image or none, and the text form in which models write them.

The form is that of MAIRA-2 (Bannur et al. 2024, arXiv 2406.04449): ``<obj>text<box><xA><yB><xC><yD></box>…</obj>``, one
after another with nothing between them. A to D are bins; a bin k of 100 stands for (k + 0.5) / 100. Text without any
marker is a report without places.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from truing.errors import RecordError

Box = tuple[float, float, float, float]
BINS = 100
_MARKERS = re.compile(r"</?obj>|</?box>")
_OBJECT = re.compile(r"<obj>((?:(?!</?obj>).)*)</obj>", re.DOTALL)
_BOX = re.compile(r"<box><x([0-9]{1,6})><y([0-9]{1,6})><x([0-9]{1,6})><y([0-9]{1,6})></box>")


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A text that says one thing, and where on the image it is seen.

    Args:
        text: of the phrase.
        boxes: (x_min, y_min, x_max, y_max), each from 0 to 1 of width and height; None where it has no place.
    """

    text: str
    boxes: tuple[Box, ...] | None = None


def parse(text: str, bins: int = BINS) -> list[Phrase] | str:
    """The phrases of a grounded text, or the text itself, without space at its ends, where it holds no marker.

    Corners are taken as they are, in whichever order; `checked_boxes` refuses reversed ones.

    Raises:
        RecordError: something stands between phrases, a box has other than four coordinates, a bin does not exist, or
            the text was cut.
    """
    whole = text.strip()
    if not _MARKERS.search(whole):
        return whole
    found, at = [], 0
    for one in _OBJECT.finditer(whole):
        if one.start() != at:
            break
        found.append(_phrase(one[1], bins))
        at = one.end()
    if at != len(whole):
        rest = whole[at : at + 60]
        raise RecordError(
            f"Grounded text is phrases of the form <obj>text<box><x1><y2><x3><y4></box></obj>, one directly after "
            f"another; letter {at + 1} begins something else: {rest!r}."
        )
    return found


def _phrase(inside: str, bins: int) -> Phrase:
    start = _MARKERS.search(inside)
    text, places = (inside, "") if start is None else (inside[: start.start()], inside[start.start() :])
    if not text.strip():
        raise RecordError(f"A grounded phrase has no text: <obj>{inside[:60]}</obj>.")
    boxes: list[Box] = []
    at = 0
    for box in _BOX.finditer(places):
        if box.start() != at:
            break
        numbers = [int(number) for number in box.groups()]
        if max(numbers) >= bins:
            raise RecordError(f"A box names bin {max(numbers)}, and bins go from 0 to {bins - 1}: {box[0]}.")
        boxes.append(tuple((number + 0.5) / bins for number in numbers))  # type: ignore[arg-type]
        at = box.end()
    if at != len(places):
        raise RecordError(f"A box is <box><x1><y2><x3><y4></box>, and {places[at : at + 60]!r} is none.")
    return Phrase(text.strip(), tuple(boxes) or None)


def write(phrases: Sequence[Phrase], bins: int = BINS) -> str:
    """Phrases in the text form; a coordinate becomes the bin that it lies in.

    Raises:
        RecordError: a text holds a marker, or a coordinate is not from 0 to 1.
    """
    parts = []
    for phrase in phrases:
        if _MARKERS.search(phrase.text):
            raise RecordError(f"A phrase holds a marker of the text form: {phrase.text[:60]!r}.")
        boxes = ""
        for box in checked_boxes(phrase.boxes, "a phrase", ordered=False) or ():
            x, y, u, v = (min(int(value * bins), bins - 1) for value in box)
            boxes += f"<box><x{x}><y{y}><x{u}><y{v}></box>"
        parts.append(f"<obj>{phrase.text}{boxes}</obj>")
    return "".join(parts)


def checked_boxes(value: Any, place: str, *, ordered: bool = True) -> tuple[Box, ...] | None:
    """Boxes from lists of four numbers, or from objects with x_min, y_min, x_max and y_max.

    Args:
        value: None, or a list of boxes.
        place: what to call it in an error.
        ordered: whether x_min may not be over x_max, nor y_min over y_max.

    Raises:
        RecordError: the list is empty, or a box has other than four numbers, one outside of 0 to 1, or reversed
            corners.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise RecordError(
            f"{place}: boxes are a list of at least one box, or null where there is none, not {value!r:.80}."
        )
    out = []
    for box in value:
        if isinstance(box, dict):
            box = [box.get(name) for name in ("x_min", "y_min", "x_max", "y_max")]
        numbers = isinstance(box, (list, tuple)) and len(box) == 4 and all(
            isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in box
        )  # fmt: skip
        if not numbers:
            raise RecordError(f"{place}: a box is x_min, y_min, x_max and y_max, not {box!r:.80}.")
        x, y, u, v = (float(one) for one in box)
        if not all(0 <= one <= 1 for one in (x, y, u, v)):
            raise RecordError(
                f"{place}: the box {[x, y, u, v]} reaches out of the image; coordinates are shares of width and "
                "height, from 0 to 1. Divide pixels by the image's size."
            )
        if ordered and (x > u or y > v):
            raise RecordError(f"{place}: the box {[x, y, u, v]} has its corners reversed.")
        out.append((x, y, u, v))
    return tuple(out)


def to_original(box: Box, width: int, height: int) -> Box:
    """A box on the square that was cut from the middle of an image, as shares of the whole image.

    Corners go to whole pixels towards 0, as where the weights were published; so they may move by a pixel.

    Args:
        box: on the square, whose side is the shorter one of the image.
        width: of the image, in pixels.
        height: likewise.

    Raises:
        RecordError: the image has no pixels.
    """
    if min(width, height) < 1:
        raise RecordError(f"An image of {width} by {height} pixels has no place for a box.")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    x, y, u, v = (int(value * side) for value in box)
    return (x + left) / width, (y + top) / height, (u + left) / width, (v + top) / height
