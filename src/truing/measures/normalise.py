"""Text brought to one form for matching, in any script. Models and readers see it as it was written; only comparisons
and the search for doubles see this.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import regex

HALF_SPACE = "\u200c"
# Letters that keyboards of one script write in several ways: Arabic for Persian, final for plain, with a hamza above.
_LETTERS = str.maketrans(
    {
        "ي": "ی", "ى": "ی", "ې": "ی", "ك": "ک", "ڪ": "ک", "ہ": "ه", "ھ": "ه", "ۀ": "ه", "ة": "ه", "أ": "ا", "إ": "ا",
        "ٱ": "ا", "ؤ": "و",
    }
)  # fmt: skip
_MARKS = re.compile("[\u064b-\u065f\u0670\u0640\u06d6-\u06ed]")
# Marks that combine with letters belong to the word in many scripts.
_WORD = regex.compile(r"[\w\p{M}]+")
_DIRECTION = re.compile("[\u200b\u200d-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def normalise(text: str) -> str:
    """One form for one text: compatible forms joined, Arabic and Persian letters at one code point, vowel signs and
    stretching left out, digits of any script as 0 to 9, no direction marks, one space where there were several.

    The half-space stays where it parts two letters. A text that went through stays as it is.
    """
    text = unicodedata.normalize("NFKC", text)
    text = _MARKS.sub("", _DIRECTION.sub("", text)).translate(_LETTERS)
    # A letter that a mark was taken from may now join the next mark: a second pass keeps this idempotent.
    text = unicodedata.normalize("NFKC", text).translate(_LETTERS)
    text = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text)
    text = re.sub(rf"\s*{HALF_SPACE}\s+|\s+{HALF_SPACE}\s*", " ", re.sub(f"{HALF_SPACE}+", HALF_SPACE, text))
    return " ".join(text.split()).strip(HALF_SPACE)


def same_text(one: str, other: str) -> bool:
    """Whether two texts are equal but for letters' forms, signs, spaces and case; two without a letter are not."""
    first, second = _bare(one), _bare(other)
    return bool(first) and first == second


def says(text: str, wanted: Iterable[str]) -> bool:
    """Whether a text holds one of the wanted ones as whole words, with half-spaces as spaces or as nothing."""
    several = list(wanted)
    for gap in (" ", ""):
        said = _words(text, gap)
        if any(form.strip() and form in said for form in (_words(one, gap) for one in several)):
            return True
    return False


def _words(text: str, gap: str) -> str:
    plain = normalise(text).casefold().replace(HALF_SPACE, gap)
    return f" {' '.join(_WORD.findall(plain))} "


def _bare(text: str) -> str:
    return "".join(_WORD.findall(normalise(text).casefold().replace(HALF_SPACE, "")))


def share_in_script(text: str, script: str) -> float | None:
    """The share of a text's letters that belong to a script; None where it has no letter.

    Args:
        text: any text.
        script: a Unicode script by name ("Arabic", "Latin", "Han"); known ones are found by `known_script`.
    """
    letters = regex.findall(r"\p{L}", text)
    if not letters:
        return None
    return len(regex.findall(rf"\p{{Script={script}}}", "".join(letters))) / len(letters)


def known_script(name: str) -> bool:
    """Whether Unicode has a script of this name."""
    if not re.fullmatch(r"[A-Za-z_]{2,40}", name):
        return False
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return True
