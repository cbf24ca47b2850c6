"""A model's own answers to the prompts of records, asked for with varied instructions and kept without them."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from truing import progress
from truing.contracts import Builder, Message, Prompt, is_number, require, require_seed, require_whole
from truing.errors import RecordError, RunError, UnsupportedError
from truing.files import write_atomic
from truing.methods.training.encoding import turn
from truing.methods.training.method import tell
from truing.models import Model, chat
from truing.models.core import context_length
from truing.records import Records, as_records
from truing.records import read as read_records
from truing.records import write as write_records
from truing.records.reading import from_rows

COLUMN = "self_responses"
FILE = "self-samples.jsonl"
INSTRUCTIONS = (
    "Answer in a way that harms nobody.",
    "You are a careful and honest assistant. Be helpful, and never help with harm.",
    "Think of who could be hurt by your answer, and answer so that nobody is.",
    "Answer as a kind and fair person would.",
    "Give a safe, moral and useful answer.",
    "If the request is harmful, decline it politely; otherwise answer it well.",
    "Be respectful. Avoid insults, prejudice, violence and anything illegal.",
    "Put people's safety and dignity first, and be of help within that.",
    "Answer truthfully, say so when you do not know, and do no harm.",
    "Reply as you would to someone whom you want to keep from harm.",
    "Keep to the law and to good morals in what you say.",
    "Be considerate: no hate, no cruelty, no dangerous advice.",
)
"""What stands in front of a prompt while own answers are sampled, unless other instructions are given."""
# Prompts of one call of `generate`; what a killed call sampled before is kept.
_CHUNK = 16


class SelfSampler(Builder):
    """Add to each record what the model itself answers: the column ``self_responses``, a list of texts.

    Each sample is asked for with another instruction of the pool as the system message (a template without a system
    role has it open the first user message); the instruction is in no record. Samples that are empty, cut off at
    ``max_new_tokens``, or equal to an earlier one of their prompt up to white space are left out and counted; so a
    prompt may have fewer than ``k``. One that is equal to a rejected answer is counted, and stays unless
    ``drop_rejected``. Equal prompts share their samples. The model's modifiers do not act.

    With a folder the records are kept there as ``self-samples.jsonl``, and a killed call repeats at most 16 prompts.

    Args:
        k: samples of a prompt.
        temperature: over 0.
        max_new_tokens: most tokens of a sample.
        instructions: the pool; None for `INSTRUCTIONS`, an empty list for bare prompts.
        drop_truncated: leave out samples that were cut off.
        drop_rejected: leave out samples that are equal to a rejected answer of their record.
        seed: of samples and instructions.

    Example:
        >>> import truing as tr
        >>> from truing.methods.training.self_samples import SelfSampler
        >>> base = tr.load("sandbox/base")
        >>> rows = SelfSampler(k=4, max_new_tokens=40).build("sandbox/dispreferences", base)
    """

    k: int = 11
    temperature: float = 0.8
    max_new_tokens: int = 256
    instructions: Sequence[str] | None = None
    drop_truncated: bool = True
    drop_rejected: bool = False
    seed: int = 0

    record_kind: ClassVar[str] = "dispreference"
    paper: ClassVar[int | None] = 41

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require_whole(self, ("k", "max_new_tokens"))
        warm = is_number(self.temperature) and self.temperature > 0
        require(warm, f"temperature is a number over 0, not {self.temperature!r}: at 0 all samples would be the same.")
        pool = self.instructions
        texts = isinstance(pool, (list, tuple)) and all(isinstance(one, str) and one.strip() for one in pool)
        require(pool is None or texts, f"instructions is a list of texts, or None, not {pool!r}.")
        require_seed(self.seed)

    def _build(self, source: Any, model: Any, out: Path | None) -> Records:
        if model is None or "local_weights" not in model.offers:
            raise UnsupportedError("Own samples need a model with local weights. Give a folder or a hub name.")
        records = as_records(source, kinds=(self.record_kind,), what=type(self).__name__)
        plain = dataclasses.replace(model, modifiers=())
        store = _Store(out, {"settings": _settings(self), "records": records.fingerprint, "model": plain.fingerprint})
        if store.finished is not None:
            return store.finished
        prompts: dict[str, Prompt] = {}
        for row in records:
            prompts.setdefault(_key(row["prompt"]), row["prompt"])
        drawn = store.partial()
        missing = [key for key in prompts if key not in drawn]
        with progress.task("own samples", len(prompts)) as bar:
            bar.advance(len(prompts) - len(missing))
            for at in range(0, len(missing), _CHUNK):
                chunk = missing[at : at + _CHUNK]
                found = dict(zip(chunk, self._sample(plain, [prompts[key] for key in chunk])))
                store.add(found)
                drawn.update(found)
                bar.advance(len(chunk))
        counts: Counter[str] = Counter()
        rows = [{**row, COLUMN: self._kept(row, drawn[_key(row["prompt"])], counts)} for row in records]
        built = dataclasses.replace(
            from_rows(rows, kind=self.record_kind, source=f"{records.source}, with own samples"), notes=dict(counts)
        )
        for line in self._notes(counts, len(rows)):
            tell(line)
        store.finish(built)
        return built

    def _sample(self, model: Model, prompts: Sequence[Prompt]) -> list[list[tuple[str, bool]]]:
        """For each prompt its samples: text, and whether it was cut off."""
        pool: Sequence[str] = INSTRUCTIONS if self.instructions is None else self.instructions
        asked: list[list[Message]] = []
        owners: list[int] = []
        # The whole pool before an instruction comes again; with few instructions each one is asked for several samples.
        width = min(self.k, max(1, len(pool)))
        times = -(-self.k // width)
        limit = context_length(model.weights)
        for at, prompt in enumerate(prompts):
            order = random.Random(f"{self.seed} {_key(prompt)}").sample(list(pool), width) if pool else [""]
            for text in order:
                messages = instructed(prompt, text)
                # No room for an answer: the prompt stays without samples, and is counted with those.
                if not limit or len(chat.encode_conversation(model.tokenizer, messages)) < limit:
                    asked.append(messages)
                    owners.append(at)
        out: list[list[tuple[str, bool]]] = [[] for _ in prompts]
        if asked:
            answers = model.generate(
                asked, n=times, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed
            )
            for one in answers:
                out[owners[one.prompt_index]].append((one.text, one.finish_reason == "length"))
        # All first samples of an instruction before the second ones, so that k takes as many of each as it can.
        return [
            [found[at] for start in range(times) for at in range(start, len(found), times)][: self.k] for found in out
        ]

    def _kept(self, row: dict[str, Any], drawn: Sequence[tuple[str, bool]], counts: Counter[str]) -> list[str]:
        rejected = {_plain(turn(row["prompt"], one)[1]) for one in row["rejected"]}
        kept: dict[str, str] = {}
        for text, cut in drawn:
            counts["sampled"] += 1
            plain = _plain(text)
            why = "empty" if not plain else "cut off" if cut and self.drop_truncated else "repeated" * (plain in kept)
            if not why and plain in rejected:
                counts["equal to a rejected answer"] += 1
                why = "rejected" * self.drop_rejected
            if why:
                counts[why] += 1
            else:
                kept[plain] = text
        counts["kept"] += len(kept)
        counts["records without samples"] += not kept
        return list(kept.values())

    def _notes(self, counts: Counter[str], rows: int) -> list[str]:
        lines = []
        lost = [f"{counts[why]:,} {why}" for why in ("empty", "cut off", "repeated") if counts[why]]
        if lost:
            lines.append(f"Of {counts['sampled']:,} own samples {counts['kept']:,} are kept; {', '.join(lost)}.")
        if counts["records without samples"]:
            lines.append(
                f"{counts['records without samples']:,} of {rows:,} records have no own sample and are left out. "
                "Raise max_new_tokens or k."
            )
        if equal := counts["equal to a rejected answer"]:
            what = "are left out" if self.drop_rejected else "stay, and hold up in part what is to be unlearned"
            lines.append(f"{equal:,} of {counts['sampled']:,} own samples are equal to a rejected answer; they {what}.")
        return lines


def instructed(prompt: Prompt, instruction: str) -> list[Message]:
    """The messages of a prompt with an instruction as, or before, its system message; an empty one changes nothing."""
    messages = chat.as_messages(prompt)
    if not instruction:
        return messages
    if messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        return [{**messages[0], "content": f"{instruction}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def merged(new: Sequence[str], old: Sequence[str], k: int) -> list[str]:
    """New and old samples by turns, the new ones first, without repeats, at most k: half of the mixture is new."""
    kept: dict[str, str] = {}
    for at in range(max(len(new), len(old))):
        for text in (*new[at : at + 1], *old[at : at + 1]):
            kept.setdefault(_plain(text), text)
    return list(kept.values())[:k]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False)


def _settings(sampler: SelfSampler) -> dict[str, Any]:
    pool = sampler.instructions
    return {**sampler.settings(), "instructions": None if pool is None else list(pool)}


class _Store:
    """The folder of a sampling: what it is of, a line for each prompt that is done, and at the end the records."""

    def __init__(self, out: Path | None, identity: dict[str, Any]) -> None:
        self.out = out
        if out is None:
            return
        about = out / "self-samples.json"
        held = None
        if about.is_file():
            try:
                held = json.loads(about.read_text(encoding="utf-8"))
            except ValueError:
                raise RunError(f"{about} is not readable. Remove it to sample anew.") from None
        if held is not None and held != identity:
            what = [name for name in identity if held.get(name) != identity[name]]
            raise RunError(
                f"{out} holds own samples of other {' and '.join(what)}. Choose another folder, or remove {about} and "
                f"{out / FILE} to sample anew."
            )
        if held is None:
            for old in (out / FILE, self._part):
                old.unlink(missing_ok=True)
            write_atomic(about, json.dumps(identity, indent=1))

    @property
    def _part(self) -> Path:
        assert self.out is not None
        return self.out / "self-samples.part.jsonl"

    @property
    def finished(self) -> Records | None:
        """The records, if the sampling came to its end."""
        if self.out is None or not (self.out / FILE).is_file():
            return None
        return read_records(self.out / FILE, kind=SelfSampler.record_kind)

    def partial(self) -> dict[str, list[tuple[str, bool]]]:
        """What a killed call has sampled, by prompt."""
        return dict(self._lines()) if self.out is not None and self._part.is_file() else {}

    def _lines(self) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
        for line in self._part.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a killed call may be cut; its prompt is sampled again
            yield entry["prompt"], [(text, cut) for text, cut in entry["samples"]]

    def add(self, found: dict[str, list[tuple[str, bool]]]) -> None:
        """Keep the samples of some prompts."""
        if self.out is None:
            return
        lines = [json.dumps({"prompt": key, "samples": samples}) for key, samples in found.items()]
        with self._part.open("a", encoding="utf-8") as file:
            # A line that a kill has cut must not be glued to these.
            file.write("\n" * (file.tell() > 0) + "\n".join(lines))

    def finish(self, records: Records) -> None:
        """Keep the records; what was kept on the way goes."""
        if self.out is not None:
            write_records(records, self.out / FILE)
            self._part.unlink(missing_ok=True)


def with_samples(records: Records, samples: Sequence[Sequence[str]]) -> Records:
    """Records with these own samples in place of those they have.

    Raises:
        RecordError: there is not one list for each record.
    """
    if len(samples) != len(records):
        raise RecordError(f"{len(records)} records need as many lists of samples, got {len(samples)}.")
    rows = [{**row, COLUMN: list(found)} for row, found in zip(records, samples)]
    return from_rows(rows, kind=records.kind, source=records.source)
