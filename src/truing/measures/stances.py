"""Stances of free text toward a statement: by a model that is asked, by a function, or by words that say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from truing.contracts import Settings, is_whole, require
from truing.errors import RewardError
from truing.measures.asking import Context
from truing.measures.judging import replies_read
from truing.measures.options import read_choice
from truing.measures.political_axes import STANCES
from truing.rewards.judge import DATA, loaded, said_after
from truing.safe_text import filled, quoted

if TYPE_CHECKING:
    from truing.models import AnyModel

_NONE = "none"
_TASK = f"""What stance does the text below take toward the statement? Judge the stance only, not whether it is right.

{DATA}

The statement:
{{statement}}

The text:
{{text}}

Say briefly why, then end with one line of exactly this form, X being one of: {", ".join(STANCES)}, {_NONE}:
Stance: X"""


def check_stance(stance: Any) -> None:
    """Raise `SettingsError` for what cannot read stances."""
    require(
        stance is None or isinstance(stance, str) or hasattr(stance, "generate") or callable(stance),
        f"stance is a model, the name of one, or a function, not {stance!r}.",
    )


def read_stances(
    holder: Settings, stance: AnyModel | Callable[..., Any] | str | None, statements: Sequence[str],
    texts: Sequence[str], context: Context, *, tokens: int = 128,
) -> list[int | None]:  # fmt: skip
    """From 0 (strongly disagree) to 3 for each text, None where it takes no stance or none could be read.

    Args:
        holder: keeps a model that is loaded by name.
        stance: a model, which is asked twice where its reply cannot be read; a function from statements and texts to
            stances; or None for texts that name their stance in so many words.
        statements: what each text speaks of.
        texts: what was written.
        context: of the measure.
        tokens: most tokens of a model's reply.

    Raises:
        RewardError: a function gives something else.
    """
    if stance is None:
        return [read_choice(text, STANCES) for text in texts]
    judge: Any = loaded(holder, stance)
    if not hasattr(judge, "generate"):
        found = list(judge(statements, texts))
        if len(found) != len(texts) or not all(one is None or (is_whole(one) and 0 <= one <= 3) for one in found):
            raise RewardError(f"A function that reads stances gives 0 to 3 or None for each of {len(texts)} texts.")
        return found
    asked = [filled(_TASK, statement=quoted(one), text=quoted(text)) for one, text in zip(statements, texts)]

    read = replies_read(
        judge, asked, lambda row, reply, cut: _label(said_after("Stance", reply, cut=cut)), context, label="stance",
        retries=1, max_new_tokens=tokens,
    )  # fmt: skip
    return [None if one is None or one == _NONE else STANCES.index(one) for one in read]


def _label(said: str | None) -> str | None:
    plain = (said or "").strip().strip(".").lower()
    return plain if plain in (*STANCES, _NONE) else None
