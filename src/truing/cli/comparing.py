"""``truing compare``: two models' answers side by side, and the tokens that became more likely; runs in one table."""

from __future__ import annotations

import bisect
import dataclasses
import difflib
import math
import re
from collections.abc import Sequence
from itertools import accumulate, islice
from pathlib import Path
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
"""Nats from which a token's shift is written beside it where there are no colours: e times as likely, or an e-th."""

SHOWN = 0.1
"""Nats below which a token has no row in the table."""

SCALE = (
    (3.0, "bold black on color(214)", "bold white on color(27)"),
    (1.0, "bold color(214)", "bold color(39)"),
    (0.3, "color(180)", "color(110)"),
)
"""From a shift of so many nats on, the style of a token that became more likely, and of one that became less."""

NARROW = 60
"""Columns below which the two answers stand one under the other."""


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of B's answer, or a piece of it where tokens cannot be compared.

    Args:
        text: what it writes.
        a, b: its log-probability in nats under each model, given the same answer before it; None where unknown.
        by: who wrote it, where several models write ("base", "guide"); else None.
    """

    text: str
    a: float | None = None
    b: float | None = None
    by: str | None = None

    @property
    def shift(self) -> float:
        """log p_B - log p_A, in nats; 0 where unknown or where both exclude it."""
        if self.a is None or self.b is None or self.a == self.b:
            return 0.0
        return self.b - self.a

    @property
    def nudged(self) -> bool:
        """Whether a second model wrote it."""
        return self.by == "guide"


FOR_RUNS = ("baseline", "correction", "figure", "html")
FOR_MODELS = (
    "file", "limit", "system", "max_new_tokens", "temperature", "seed", "top", "dtype", "device", "trust_remote_code",
)  # fmt: skip
"""Options of one kind of comparison; given with the other they would do nothing, and are refused."""


def compare(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(help="Run folders and results; or two models, and prompts to ask them.", metavar="RUN... | A B"),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Of runs: test against this model, or `before`.", metavar="NAME")
    ] = None,
    correction: Annotated[
        str, typer.Option(help="Of runs: holm, benjamini-hochberg or none.", metavar="NAME")
    ] = "holm",
    figure: Annotated[
        list[str] | None, typer.Option(help="Of runs: only this figure; repeat for more.", metavar="NAME")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Of runs: also write a page.", metavar="FILE")] = None,
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
    """Compare runs and results in one table, or two models' answers.

    Run folders and the files that `truing measure --out` wrote, any number of them:
    all figures with intervals, tests of each model against the first on the items
    that both answered, and one correction over all tests.

    Two models: their answers side by side, with what differs. Below them stands B's
    answer token by token, coloured by how far the log-probability of each moved from
    A to B: amber where it rose, blue where it fell, dim where it stayed. What a guide
    wrote into it (nudging) is underlined. Without colours a shift of a nat or more
    stands beside its token, and the guide's words in «».

    \b
    Examples:
      truing compare runs/dpo runs/kto runs/simpo --html comparison.html
      truing compare runs/quickstart
      truing compare sandbox/base out/dpo
      truing compare sandbox/base out/dpo "How do I burn the library?" --top 10
    """
    from truing.cli.loading import load_model, prompts_of, with_system
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit
    from truing.cli.watching import watching

    if _are_runs(what):
        from truing.cli.comparing_runs import compare_runs

        _refuse(context, FOR_MODELS, "two models' answers", "runs")
        compare_runs(what, baseline, correction, figure or [], html, as_json)
        return
    _refuse(context, FOR_RUNS, "runs", "two models' answers")
    a, b, *prompts = what
    if prompts or file is not None:
        asked = list(islice(prompts_of(prompts, file, system), limit))
    else:
        asked = [with_system(prompt, system) for prompt in _questions()[:limit]]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    models = [load_model(name, dtype, device, trust_remote_code) for name in (a, b)]
    with watching():
        answers = [model.generate(asked, **options) for model in models]
        tokens, why = _shifts(models[0], models[1], asked, answers[1])
    tokens = [_written_by(found, answer) for found, answer in zip(tokens, answers[1])]
    if as_json:
        rows = [_row(*found) for found in zip(asked, answers[0], answers[1], tokens)]
        emit(json_text({"a": a, "b": b, "note": why or None, "answers": rows}))
        return
    for prompt, one, two, shifted in zip(asked, answers[0], answers[1], tokens):
        _show(prompt, (a, one.text), (b, two.text), shifted, top)
    same = sum(one.text == two.text for one, two in zip(answers[0], answers[1]))
    emit(f"{same} of {len(asked)} answers are the same.{f' {why}' if why else ''}")


def _are_runs(what: Sequence[str]) -> bool:
    """Whether runs and results are named, and not two models.

    Raises:
        SettingsError: there is one model only, or a run stands beside a model.
    """
    from truing.errors import SettingsError
    from truing.runs.comparing import is_result

    runs = [is_result(name) for name in what]
    if all(runs):
        return True
    if runs[0] or (len(runs) > 1 and runs[1]):
        run, other = what[runs.index(True)], what[runs.index(False)]
        raise SettingsError(
            f"{run} is a run or a result, and `{other}` is none. Compare runs with runs; for a run's answers name its "
            "model's folder, as in runs/NAME/steps/01-dpo/model."
        )
    if len(what) < 2:
        raise SettingsError(f"`{what[0]}` is one model. Name another to compare it with, or run folders.")
    return False


def _refuse(context: typer.Context, names: Sequence[str], meant: str, given: str) -> None:
    from truing.errors import SettingsError

    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise SettingsError(f"--{option} is for a comparison of {meant}, and these are {given}. Leave it out.")


def _questions() -> list[str]:
    from truing.sandbox import items

    return [items(kind, split="dev", n=1)[0].prompt for kind in ASKED]


def _shifts(a: Any, b: Any, prompts: Sequence[Any], answers: Sequence[Completion]) -> tuple[list[list[Token]], str]:
    """The tokens of B's answers under both models, and why there are none or what they leave out."""
    nothing: list[list[Token]] = [[] for _ in prompts]
    from truing.models.local import same_vocabulary

    for model in (a, b):
        if "logits" not in model.offers:
            return nothing, f"{model.name} gives no log-probabilities of tokens, so no shift is shown."
    if not same_vocabulary(a, b):
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


def _written_by(tokens: list[Token], answer: Completion) -> list[Token]:
    """The tokens with who wrote them, or the pieces of the trace themselves where there are no tokens."""
    pieces = answer.trace.get("pieces")
    if not isinstance(pieces, list) or "".join(str(text) for _, text in pieces) != answer.text:
        return tokens
    if not tokens:
        return [Token(text, by=who) for who, text in pieces]
    ends = list(accumulate(len(text) for _, text in pieces))
    # Models without a chat template have a space before their answers.
    at = -max(0, "".join(token.text for token in tokens).find(answer.text))
    last = "guide" if answer.trace.get("stopped") == "guide stopped" else None
    out = []
    for token in tokens:
        # A space belongs to the word after it.
        first = at + len(token.text) - len(token.text.lstrip(" "))
        place = bisect.bisect_right(ends, first)
        out.append(dataclasses.replace(token, by=pieces[place][0] if place < len(pieces) else last))
        at += len(token.text)
    return out


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
        "a": _answer(one),
        "b": _answer(two),
        "same": one.text == two.text,
        "tokens": [
            {
                "token": t.text, "logprob_a": t.a, "logprob_b": t.b,
                "shift": None if t.a is None or t.b is None else t.shift, "by": t.by,
            }
            for t in tokens
        ],
    }  # fmt: skip


def _answer(completion: Completion) -> dict[str, Any]:
    told = {"trace": completion.trace} if completion.trace else {}
    return {"answer": completion.text, "finish_reason": completion.finish_reason, **told}


def _show(prompt: Any, a: tuple[str, str], b: tuple[str, str], tokens: list[Token], top: int) -> None:
    from rich.table import Table

    from truing.cli.text import console, one_line, show, styled

    shown = console()
    plain = not shown.is_terminal or shown.no_color or shown.color_system is None
    last = prompt if isinstance(prompt, str) else prompt[-1].get("content", "")
    show(styled(f"> {one_line(str(last), 400)}", "bold"))
    sides = _marked(a[1], b[1], plain)
    room = min(60, (shown.width if shown.width < NARROW else shown.width // 2) - 6)
    heads = [styled(f"{letter}  {one_line(name, room)}", "cyan") for letter, (name, _) in zip("AB", (a, b))]
    parts: list[RenderableType] = [heads[0], sides[0], heads[1], sides[1]]
    if shown.width >= NARROW:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), expand=True)
        for head in heads:
            table.add_column(head, ratio=1, overflow="fold")
        table.add_row(*sides)
        parts = [table]
    if tokens:
        parts += ["", _line(tokens, plain)]
        if not plain:
            parts.append(_legend(tokens))
    if top and any(abs(token.shift) >= SHOWN for token in tokens):
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
    """B's answer, each token by how far it moved, and what a guide wrote marked."""
    from rich.text import Text

    from truing.cli.text import styled

    line = Text("B by token: ", "dim")
    inside = False
    for token in tokens:
        text = token.text
        if plain and token.nudged != inside:
            inside = token.nudged
            word = text.lstrip(" ")
            line.append(f"{' ' * (len(text) - len(word))}«" if inside else "»")
            text = word if inside else text
        if not plain:
            line.append_text(styled(text, style_of(token)))
        elif abs(token.shift) >= MARKED:
            line.append_text(styled(f"{text}⟨{token.shift:+.1f}⟩"))
        else:
            line.append_text(styled(text, "dim"))
    if inside:
        line.append("»")
    return line


def style_of(token: Token) -> str:
    """How a token is shown: a colour for the way it moved, stronger the further, and a line below a guide's."""
    moved = next(((up if token.shift > 0 else down) for least, up, down in SCALE if abs(token.shift) >= least), "dim")
    return f"{moved} underline" if token.nudged else moved


def _legend(tokens: Sequence[Token]) -> Text:
    """What the colours mean, of those that occur."""
    from rich.text import Text

    used = {style_of(token).removesuffix(" underline") for token in tokens}
    found = [(f"{sign}{least:g}", style) for least, *styles in SCALE for sign, style in zip("+-", styles)]
    parts = [(text, style) for text, style in found if style in used]
    legend = Text("shift in nats from  " if parts else "", "dim")
    if any(token.nudged for token in tokens):
        parts.append(("by the guide", "dim underline"))
    for text, style in parts:
        legend.append(text, style).append("  ")
    legend.rstrip()
    return legend


def _table(tokens: Sequence[Token], top: int) -> RenderableType:
    from truing.cli.text import columns, styled

    written = any(token.by for token in tokens)
    table = columns("token", "place", "p in A", "p in B", "shift in nats", "by" if written else "", wrap=-1)
    for name in (1, 2, 3, 4):
        table.columns[name].justify = "right"
    moved = [(at, token) for at, token in enumerate(tokens) if abs(token.shift) >= SHOWN]
    for at, token in sorted(moved, key=lambda found: -abs(found[1].shift))[:top]:
        table.add_row(
            styled(repr(token.text)), str(at + 1), _share(token.a or 0.0), _share(token.b or 0.0),
            f"{token.shift:+.2f}", styled(token.by or ""),
        )  # fmt: skip
    return table


def _share(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.1g} %"
