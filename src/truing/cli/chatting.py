"""``truing chat``: a conversation of several turns."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.cli.options import DEVICE, DTYPE, MAX_NEW_TOKENS, MODEL, SEED, SYSTEM, TEMPERATURE, TRUST

if TYPE_CHECKING:
    from truing.models import AnyModel

HELP = """\
/reset         forget the conversation; the system message stays
/undo          take back the last turn
/system        show the system message
/system TEXT   set it; /system - takes it away
/modifiers     what acts on the model, with its strength
/modifiers off NAME   switch one off; /modifiers on NAME switches it on again
/strength VALUE       set the strength of the last one that has one
/strength NAME VALUE  that of another; NAME is its name or number
/save FILE     write the conversation as a line of JSON: a dialogue record
/help          this
/quit          leave, as Ctrl-D does; Ctrl-C stops an answer
A message that begins with a slash is written with two."""


def chat(
    model: MODEL,
    system: SYSTEM = None,
    temperature: TEMPERATURE = 0.0,
    max_new_tokens: MAX_NEW_TOKENS = 256,
    seed: SEED = 0,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Talk with a model.

    Ctrl-C stops an answer, Ctrl-D leaves; /help lists what else there is.
    With a pipe as input, every line is a turn.

    \b
    Examples:
      truing chat --model sandbox/base
      truing chat --model out/dpo --system "Answer briefly." --temperature 0.7
      printf 'Hello.\\n/save hello.jsonl\\n' | truing chat --model out/dpo
    """
    from truing.cli.loading import load_model
    from truing.cli.text import printable

    loaded = load_model(model, dtype, device, trust_remote_code)
    talk = Conversation(loaded, system, {"temperature": temperature, "max_new_tokens": max_new_tokens}, seed)
    live = sys.stdin.isatty()
    if live:
        print(printable(f"{loaded.name}. /help lists the commands, Ctrl-D leaves."), file=sys.stderr)
    for line in _lines(live):
        if not line.strip():
            continue
        if not talk.turn(line):
            break


def _lines(live: bool) -> Iterator[str]:
    if not live:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        for line in sys.stdin:
            yield line.rstrip("\r\n")
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its editing and its memory of lines)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D or /quit leaves.", file=sys.stderr)


class Conversation:
    """The turns so far, and what a typed line does to them.

    Attributes:
        model: who answers: ``whole`` without the modifiers whose places are in ``off``.

    Args:
        model: who answers.
        system: the system message, or None.
        options: of `generate`.
        seed: of the first answer; every further turn has the next one.
    """

    def __init__(self, model: AnyModel, system: str | None, options: dict[str, Any], seed: int = 0) -> None:
        self.model, self.system, self.options, self.seed = model, system, options, seed
        self.whole, self.off = model, set[int]()
        self.messages: list[dict[str, str]] = []
        self.saved: set[Path] = set()

    def turn(self, line: str) -> bool:
        """Do what a line says: a command, or a message to the model. False when it was to leave."""
        from truing.errors import TruingError

        if line.startswith("/") and not line.startswith("//"):
            word, _, rest = line[1:].strip().partition(" ")
            if word in ("quit", "exit"):
                return False
            self._command(word, rest.strip())
            return True
        text = line[1:] if line.startswith("//") else line
        # What the terminal sent may hold halves of characters, which no tokenizer takes.
        self.messages.append({"role": "user", "content": text.encode("utf-8", "replace").decode()})
        try:
            self._answer()
        except TruingError as error:
            self.messages.pop()
            self._note(f"error: {error}\nThe message was not kept. /undo or /reset makes room.")
        return True

    def _answer(self) -> None:
        from truing.cli.text import emit, printable

        pieces: list[str] = []

        def write(prompt: int, sample: int, piece: str) -> None:
            pieces.append(piece)
            sys.stdout.write(printable(piece))
            sys.stdout.flush()

        before = [{"role": "system", "content": self.system}] if self.system else []
        seed = self.seed + len(self.messages) // 2
        try:
            found = self.model.generate([[*before, *self.messages]], **self.options, seed=seed, stream=write)
        except KeyboardInterrupt:
            emit()
            if pieces:
                self._note("Stopped; what was written is kept.")
                self.messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self._note("Stopped; the message was not kept.")
                self.messages.pop()
            return
        emit()
        self.messages.append({"role": "assistant", "content": found[0].text})
        if found[0].finish_reason == "length":
            self._note("Cut at the most tokens an answer may have; --max-new-tokens allows more.")

    def _command(self, word: str, rest: str) -> None:
        if word == "reset":
            self.messages.clear()
            self._note("Forgotten.")
        elif word == "undo":
            self._note("Taken back." if self.messages else "There is no turn to take back.")
            del self.messages[-2:]
        elif word == "system":
            if rest:
                self.system = None if rest == "-" else rest
            self._note(f"System message: {self.system}" if self.system else "There is no system message.")
        elif word in ("strength", "modifiers"):
            self._turn_dials(word, rest.split())
        elif word == "save":
            self._save(rest)
        elif word == "help":
            self._note(HELP)
        else:
            self._note(f"There is no /{word}. /help lists the commands; a message that begins with a slash has two.")

    def _turn_dials(self, word: str, rest: list[str]) -> None:
        from truing.errors import TruingError

        try:
            if word == "strength":
                self._strength(rest)
            elif rest:
                self._switch(rest)
        except TruingError as error:
            self._note(f"error: {error}")
            return
        self.model = self.whole
        for place in sorted(self.off, reverse=True):
            self.model = self.model.without(place)
        self._note("\n".join(self._modifiers()) or "Nothing acts on the model.")

    def _strength(self, rest: list[str]) -> None:
        from truing.errors import SettingsError

        try:
            value = float(rest[-1])
        except (ValueError, IndexError):
            raise SettingsError("/strength takes a number: /strength 0.5, or /strength NAME 0.5.") from None
        self.whole = self.whole.with_strength(value, self._place(" ".join(rest[:-1])) if rest[:-1] else None)

    def _switch(self, rest: list[str]) -> None:
        from truing.errors import SettingsError

        if rest[0] not in ("on", "off") or len(rest) == 1:
            raise SettingsError("/modifiers lists them; /modifiers off NAME and /modifiers on NAME switch one.")
        place = self._place(" ".join(rest[1:]))
        if rest[0] == "off":
            self.off.add(place)
        else:
            self.off.discard(place)

    def _place(self, name: str) -> int:
        """The place of a modifier that was named, or numbered from 1."""
        return self.whole.find_modifier(int(name) - 1 if name.isdecimal() else name.replace("-", "_"))

    def _modifiers(self) -> list[str]:
        from truing.models.history import name_of

        lines = []
        for place, modifier in enumerate(self.whole.modifiers):
            dial = f"{modifier.dial} {getattr(modifier, modifier.dial):g}" if modifier.dial else "no strength"
            lines.append(f"{place + 1}  {name_of(type(modifier))}  {dial}{'  (off)' if place in self.off else ''}")
        return lines

    def _save(self, name: str) -> None:
        import json

        path = Path(name).expanduser()
        if not name or not self.messages:
            self._note("/save FILE writes the conversation." if not name else "There is nothing to save yet.")
            return
        if path.exists() and path.resolve() not in self.saved:
            self._note(f"{name} exists already; choose another name.")
            return
        before = [{"role": "system", "content": self.system}] if self.system else []
        try:
            path.write_text(json.dumps({"messages": [*before, *self.messages]}, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            self._note(f"{name} cannot be written: {error.strerror}.")
            return
        self.saved.add(path.resolve())
        self._note(f"Saved {len(self.messages)} messages in {name}.")

    def _note(self, text: str) -> None:
        from truing.cli.text import printable

        print(printable(text), file=sys.stderr, flush=True)
