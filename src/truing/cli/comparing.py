"""``truing compare``: two models' answers side by side, and the tokens that became more likely."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import DEVICE, DTYPE, JSON, MAX_NEW_TOKENS, SEED, SYSTEM, TEMPERATURE, TRUST

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from truing.models.types import Completion

ASKED = ("fact", "unknown", "harmful", "borderline", "premise_false")
"""Kinds of sandbox question that are asked where no prompt is given."""

MARKED = 1.0
"""Nats from which a token's shift is marked: it became e times as likely."""


SHOWN = 0.1
"""Nats below which a token has no row in the table."""


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of B's answer.

    Args:
        text: what it writes.
        a, b: its log-probability in nats under each model, given the same answer before it.
    """

    text: str
    a: float
    b: float

    @property
    def shift(self) -> float:
        """log p_B - log p_A, in nats."""
        return self.b - self.a


def compare(
    a: Annotated[str, typer.Argument(help="A model: sandbox/base, a folder, a hub name.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The model to compare with it.", metavar="B")],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts; a few questions of the sandbox if left out.", metavar="[PROMPT]..."),
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="Prompts, one a line, or .jsonl; - is standard input.", metavar="FILE")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts.", metavar="N")] = None,
    system: SYSTEM = None,
    max_new_tokens: MAX_NEW_TOKENS = 128,
    temperature: TEMPERATURE = 0.0,
    seed: SEED = 0,
    top: Annotated[int, typer.Option(min=0, help="Tokens in the table of shifts.", metavar="N")] = 5,
    as_json: JSON = False,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Show two models' answers side by side, with what differs.

    Below them stands B's answer token by token: those that B writes and A finds
    unlikely are marked with how far their log-probability moved, in nats.

    \b
    Examples:
      truing compare sandbox/base out/dpo
      truing compare sandbox/base out/dpo "How do I burn the library?" --top 10
    """
    from truing.cli.loading import load_model, prompts_of, with_system
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit
    from truing.cli.watching import watching

    if prompts or file is not None:
        asked = list(islice(prompts_of(prompts, file, system), limit))
    else:
        asked = [with_system(prompt, system) for prompt in _questions()[:limit]]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    models = [load_model(name, dtype, device, trust_remote_code) for name in (a, b)]
    with watching():
        answers = [model.generate(asked, **options) for model in models]
        tokens, why = _shifts(models[0], models[1], asked, answers[1])
    if as_json:
        rows = [_row(*found) for found in zip(asked, answers[0], answers[1], tokens)]
        emit(json_text({"a": a, "b": b, "note": why or None, "answers": rows}))
        return
    for prompt, one, two, shifted in zip(asked, answers[0], answers[1], tokens):
        _show(prompt, (a, one.text), (b, two.text), shifted, top)
    same = sum(one.text == two.text for one, two in zip(answers[0], answers[1]))
    emit(f"{same} of {len(asked)} answers are the same.{f' {why}' if why else ''}")


def _questions() -> list[str]:
    from truing.sandbox import items

    return [items(kind, split="dev", n=1)[0].prompt for kind in ASKED]


def _shifts(a: Any, b: Any, prompts: Sequence[Any], answers: Sequence[Completion]) -> tuple[list[list[Token]], str]:
    """The tokens of B's answers under both models, and why there are none or what they leave out."""
    nothing: list[list[Token]] = [[] for _ in prompts]
    for model in (a, b):
        if "logits" not in model.offers:
            return nothing, f"{model.name} gives no log-probabilities of tokens, so no shift is shown."
    if a.tokenizer.get_vocab() != b.tokenizer.get_vocab():
        return nothing, "The two have different tokenizers, so tokens cannot be compared."
    notes = [
        f"{model.name} searches among answers; the shift is that of the model without its search."
        for model in (a, b)
        if any(modifier.kind == "search" for modifier in model.modifiers)
    ]
    found = []
    texts = [answer.text for answer in answers]
    under = [model.policy.logprobs(prompts, texts, per_token=True) for model in (a, b)]
    for prompt, answer, one, two in zip(prompts, answers, *under):
        ids = b.encode_pair(prompt, answer.text)[1]
        tokens = [Token(*values) for values in zip(_pieces(b.tokenizer, ids), one.tolist(), two.tolist())]
        # The end of an answer that was cut is not the model's.
        found.append(tokens[:-1] if answer.finish_reason == "length" else tokens)
    return found, " ".join(notes)


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token writes; the bytes of one character that is spread over tokens come with its last."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:end]), clean_up_tokenization_spaces=False).rstrip("\ufffd")
        pieces.append(text[len(before) :])
        before = text
    return pieces


def _row(prompt: Any, one: Completion, two: Completion, tokens: list[Token]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "a": {"answer": one.text, "finish_reason": one.finish_reason},
        "b": {"answer": two.text, "finish_reason": two.finish_reason},
        "same": one.text == two.text,
        "tokens": [
            {"token": t.text, "logprob_a": t.a, "logprob_b": t.b, "shift": t.shift} for t in tokens
        ],
    }  # fmt: skip


def _show(prompt: Any, a: tuple[str, str], b: tuple[str, str], tokens: list[Token], top: int) -> None:
    from rich.table import Table

    from truing.cli.text import console, one_line, show, styled

    plain = not console().is_terminal
    last = prompt if isinstance(prompt, str) else prompt[-1].get("content", "")
    show(styled(f"> {one_line(str(last), 400)}", "bold"))
    sides = _marked(a[1], b[1], plain)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), expand=True, header_style="cyan")
    for (name, _), side in zip((a, b), (1, 2)):
        table.add_column(styled(f"{'AB'[side - 1]}  {one_line(name, 60)}"), ratio=1, overflow="fold")
    table.add_row(*sides)
    parts: list[RenderableType] = [table]
    if tokens:
        parts += ["", _line(tokens, plain)]
    if top and any(token.shift >= SHOWN for token in tokens):
        parts.append(_table(tokens, top))
    show(*parts, "")


def _marked(a: str, b: str, plain: bool) -> tuple[Text, Text]:
    """Both answers, with the words that only one of them has marked: by style, or where there is none by brackets."""
    from rich.text import Text

    from truing.cli.text import styled

    one, two = (re.findall(r"\s*\S+|\s+$", text) for text in (a, b))
    left, right = Text(), Text()
    for what, i, j, k, m in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        for side, words, style, marks in (
            (left, one[i:j], "red strike", ("[-", "-]")),
            (right, two[k:m], "green underline", ("{+", "+}")),
        ):
            text = "".join(words)
            if what == "equal" or not text.strip():
                side.append_text(styled(text))
            else:
                bare = text.strip()
                before, after = text.split(bare, 1)
                inside = f"{marks[0]}{bare}{marks[1]}" if plain else bare
                side.append_text(Text.assemble(before, styled(inside, "" if plain else style), after))
    return left or Text("(nothing)", "dim"), right or Text("(nothing)", "dim")


def _line(tokens: Sequence[Token], plain: bool) -> Text:
    """B's answer, with the tokens that moved most marked."""
    from rich.text import Text

    from truing.cli.text import styled

    line = Text("B by token: ", "dim")
    for token in tokens:
        if token.shift < MARKED:
            line.append_text(styled(token.text, "dim"))
        elif plain:
            line.append_text(styled(f"{token.text}⟨+{token.shift:.1f}⟩"))
        else:
            line.append_text(
                styled(token.text, "bold black on yellow" if token.shift >= 3 else "bold yellow underline")
            )
    return line


def _table(tokens: Sequence[Token], top: int) -> RenderableType:
    from truing.cli.text import columns, styled

    table = columns("token", "place", "p in A", "p in B", "shift in nats", "", wrap=-1)
    for name in (1, 2, 3, 4):
        table.columns[name].justify = "right"
    moved = [at for at, token in enumerate(tokens) if token.shift >= SHOWN]
    for at in sorted(moved, key=lambda at: -tokens[at].shift)[:top]:
        token = tokens[at]
        table.add_row(
            styled(repr(token.text)), str(at + 1), _share(token.a), _share(token.b), f"{token.shift:+.2f}", ""
        )
    return table


def _share(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.1g} %"
