"""Mixture of Instructions: domains learned side by side, each under its own system prompt, in chunks of one of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from truing import progress
from truing.contracts import require
from truing.errors import RecordError
from truing.methods.training.batches import Batch
from truing.methods.training.encoding import Example, Ids, Row
from truing.methods.training.losses import instructions
from truing.methods.training.losses.instructions import MODES, REDUCTIONS
from truing.methods.training.method import tell
from truing.methods.training.objective import Term
from truing.methods.training.packing import pack_bfd
from truing.methods.training.policy import Scores
from truing.methods.training.sft import SFT, SFTObjective
from truing.models import Model, chat
from truing.models.core import context_length
from truing.records import Records

SAMPLINGS = ("balanced", "natural")
ORDERS = ("fixed", "random")
Chunk = list[Row]


@dataclasses.dataclass(frozen=True)
class DomainReport:
    """What an epoch holds of a domain.

    Args:
        domain: its name.
        records: that are learned from.
        instructions: conversations in all chunks, repeats counted.
        tokens: of their answers.
        repeats: how often the most used record is used.
    """

    domain: str
    records: int
    instructions: int
    tokens: int
    repeats: int


class MixtureObjective(SFTObjective):
    """The likelihood of answers, in chunks of one instruction a domain.

    After `arrange` a row is a chunk; with the attention "none", as many chunks as ``limit`` tokens hold. Each answer
    follows all that the attention lets it see: the earlier members of its chunk, as their own templates wrote them.

    Args:
        system_prompts: text of each domain, or None.
        domain: the column that names the domain.
        sampling: see `MixtureOfInstructions`, as the rest.
        attention: one of `MODES`.
        reduction: one of `REDUCTIONS`.
        order: of domains in a chunk.
        max_repeats: uses of a record in an epoch.
        turns: see `SFTObjective`.
        limit: tokens of a row.
        seed: of groups.
    """

    def __init__(
        self,
        *,
        system_prompts: Mapping[str, str] | None = None,
        domain: str = "domain",
        sampling: str = "balanced",
        attention: str = "chunk",
        reduction: str = "token",
        order: str = "random",
        max_repeats: int | None = None,
        turns: str = "last",
        limit: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__(turns)
        self.system_prompts, self.domain = system_prompts, domain
        self.sampling, self.attention, self.reduction, self.order = sampling, attention, reduction, order
        self.max_repeats, self.limit, self.seed = max_repeats, limit, seed
        # Their numbers are what rows and batches carry. Those with a system prompt keep its order.
        self.domains: list[str] = list(system_prompts or ())
        self.report: list[DomainReport] = []

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The conversation under the system prompt of its domain."""
        name = str(row.get(self.domain, ""))
        prompt = row["prompt"]
        if self.system_prompts is not None:
            if name not in self.system_prompts:
                raise RecordError(
                    f"The domain {name[:60]!r} (column `{self.domain}`) has no system prompt. system_prompts knows "
                    f"{', '.join(self.system_prompts)}."
                )
            messages = chat.as_messages(prompt)
            if any(message["role"] in ("system", "developer") for message in messages):
                raise RecordError(
                    f"The prompt has a system message of its own, and the domain {name!r} has a system prompt. Take "
                    "the message out, or leave system_prompts away."
                )
            prompt = [{"role": "system", "content": self.system_prompts[name]}, *messages]
        if name not in self.domains:
            self.domains.append(name)
        number = {"domain": float(self.domains.index(name))}
        return [Example(one.answers, number) for one in super().examples({**row, "prompt": prompt})]

    # --- rows ---------------------------------------------------------------------------------------------------------

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Chunks of the single conversations; a chunk has the record number of its first member."""
        by_domain: dict[str, list[Row]] = {name: [] for name in self.domains}
        for row in rows:
            by_domain[self._domain(row)].append(row)
        by_domain = {name: members for name, members in by_domain.items() if members}
        planned = self._balanced(by_domain) if self.sampling == "balanced" else self._natural(rows, len(by_domain))
        fitted = instructions.fit_chunks([[row.width for row in chunk] for chunk in planned], self.limit)
        chunks = [[planned[chunk][member] for chunk, member in group] for group in fitted]
        groups = [[chunk] for chunk in chunks]
        if self.attention == "none":
            packed = pack_bfd([sum(row.width for row in chunk) for chunk in chunks], self.limit)
            groups = [[chunks[piece.sample] for piece in pieces] for pieces in packed]
        self._tell(by_domain, chunks, len(chunks) - len(planned), len(groups))
        return [self._join(group) for group in groups]

    def _domain(self, row: Row) -> str:
        number = row.values["domain"]
        assert isinstance(number, float)
        return self.domains[int(number)]

    def _balanced(self, by_domain: dict[str, list[Row]]) -> list[Chunk]:
        counts = {name: len(members) for name, members in by_domain.items()}
        plan = instructions.balanced_chunks(counts, seed=self.seed, shuffle_members=self.order == "random")
        most = {name: count * (self.max_repeats or len(plan.chunks)) for name, count in counts.items()}
        for name, repeats in plan.repeats.items():
            if self.max_repeats and repeats > self.max_repeats:
                tell(
                    f"The domain {name!r} has {counts[name]:,} records, which {len(plan.chunks):,} chunks would use "
                    f"{repeats} times each. It is left out of chunks after {self.max_repeats} uses an epoch. Give it "
                    "more records, or raise max_repeats, at the price of learning them by heart."
                )
        # The plan's order is random already, so that what the first chunks get is a fair sample.
        chunks = [
            [by_domain[name][item] for name, item in chunk if at < most[name]] for at, chunk in enumerate(plan.chunks)
        ]
        return [chunk for chunk in chunks if chunk]

    def _natural(self, rows: list[Row], size: int) -> list[Chunk]:
        order = np.random.default_rng([self.seed, 1]).permutation(len(rows))
        return [[rows[at] for at in order[start : start + size]] for start in range(0, len(rows), size)]

    def _join(self, group: Sequence[Chunk]) -> Row:
        answers: list[tuple[Ids, Ids]] = []
        domains: list[float] = []
        numbers: list[float] = []
        before: Ids = []
        for number, chunk in enumerate(group):
            for row in chunk:
                if self.attention == "isolated":
                    before = []
                answers += [(before + prompt, answer) for prompt, answer in row.answers]
                # Of a conversation with several answers the last one holds all of it.
                prompt, answer = max(row.answers, key=lambda one: len(one[0]) + len(one[1]))
                before = [*before, *prompt, *answer]
                domains += [row.values["domain"]] * len(row.answers)  # type: ignore[list-item]
                numbers += [float(number)] * len(row.answers)
        return Row(group[0][0].index, tuple(answers), {"domain": domains, "chunk": numbers})

    def _tell(self, by_domain: dict[str, list[Row]], chunks: Sequence[Chunk], split: int, rows: int) -> None:
        used = [row for chunk in chunks for row in chunk]
        for name, members in by_domain.items():
            mine = [row for row in used if self._domain(row) == name]
            _, uses = np.unique([id(row) for row in mine], return_counts=True)
            tokens = sum(len(answer) for row in mine for _, answer in row.answers)
            self.report.append(DomainReport(name, len(members), len(mine), tokens, int(uses.max(initial=0))))
        total = max(1, sum(one.tokens for one in self.report))
        for one in self.report:
            progress.say(
                f"{one.domain or 'all'}: {one.records:,} records, {one.instructions:,} instructions an epoch (a record "
                f"up to {one.repeats} times), {one.tokens:,} answer tokens ({one.tokens / total:.0%} of all)"
            )
        if len(by_domain) == 1:
            tell(
                f"All records are of one domain ({next(iter(by_domain)) or 'there is no column ' + self.domain!r}), so "
                "there is nothing to mix: this is SFT."
            )
        if split:
            tell(
                f"{split:,} of {len(chunks):,} chunks are instructions that their own chunk had no room for within "
                f"{self.limit} tokens. Raise max_length to keep chunks whole."
            )
        if self.attention == "none":
            fill = sum(row.width for row in used) / (rows * self.limit)
            progress.say(f"{rows:,} rows of {self.limit} tokens, filled to {fill:.0%}")

    # --- loss ---------------------------------------------------------------------------------------------------------

    def units(self, batch: Batch) -> dict[str, int]:
        """Also "answer", and "chunk"."""
        chunks = _chunks(batch.owner, batch.values["chunk"])
        return {**batch.units, "answer": len(batch.owner), "chunk": int(chunks.max()) + 1}

    def terms(self, scores: Scores) -> list[Term]:
        """The negative log-likelihood, averaged as the reduction says."""
        sums = -self.sequence_logps(scores.tokens, scores.mask)
        if self.reduction == "token":
            return [Term(sums, "every_token")]
        if self.reduction == "sequence":
            return [Term(sums / scores.lengths.clamp(min=1), "answer")]
        chunks = _chunks(scores.owner, scores.values["chunk"])
        return [Term(instructions.chunk_means(sums, scores.lengths, chunks), "chunk")]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Of each domain: the loss of a token, the mean over answers; and its share of the answers."""
        means = -self.sequence_logps(scores.tokens, scores.mask) / scores.lengths.clamp(min=1)
        out = {}
        for number, name in enumerate(self.domains):
            mine = scores.values["domain"] == number
            if mine.any():
                out[f"loss/{name or 'all'}"] = means[mine]
            out[f"share/{name or 'all'}"] = mine.float()
        return out


def _chunks(owner: Tensor, chunk: Tensor) -> Tensor:
    """A number for each chunk of a batch, from 0, at every answer."""
    key = owner * (int(chunk.max()) + 1) + chunk.long()
    return torch.unique(key, return_inverse=True)[1]


class MixtureOfInstructions(SFT):
    """Fine-tune on several domains at once without losing one for another.

    Three parts, which are independent switches: each domain has its own **system prompt**; chunks hold exactly one
    instruction of every domain, so that each is seen equally often, small ones again and again (**sampling**); and in
    training an instruction sees the earlier ones of its chunk, never another chunk (**attention**). Members of a chunk
    are whole conversations as the chat template writes them, system turn and end included, one behind the other;
    positions begin anew with every chunk. Only answers are learned.

    Records are demonstrations with a column that names the domain; `align` also takes a dict of records by domain.
    ``batch_size`` counts chunks (with ``attention="none"`` rows of ``max_length`` tokens). A chunk too long for that
    loses its longest members to chunks of their own. Groups are drawn once, for all epochs. Batches have no padding,
    and what several conversations begin with is computed once, as in `SFT`.

    A repeated domain is learned by heart in the end, hence ``max_repeats``. In the paper one attention is best on one
    benchmark and another on the next, from single runs: compare them on your own domains, over several seeds.

    Xu et al. 2024 (arXiv 2404.18410). Its printed equations mix the indices of tokens and instructions; the order of
    domains, positions and what happens to long chunks are choices made here.

    Args:
        system_prompts: text for each domain; None for none.
        domain: the column that names a record's domain.
        sampling: "balanced", or "natural" for every record once, in random groups.
        attention: "chunk"; "isolated", each conversation alone; "none", a whole row of chunks sees itself.
        reduction: "token" averages over answer tokens, where long answers count more; "sequence" over answers; "chunk"
            over chunks, and inside one over tokens.
        order: of domains in a chunk: "random", or "fixed", as in ``system_prompts`` or as the records come. The first
            member is the only one learned as it is met later; in a fixed order that is always the same domain, and the
            others learn less (measured: two domains of 1:50 end at 0.21 and 0.76 nats, in random order at 0.24 and
            0.30).
        max_repeats: a record's uses in an epoch, after which its domain is left out of chunks; None for no limit.

    Example:
        >>> import truing as tr
        >>> mixed = tr.MixtureOfInstructions(system_prompts={"code": "You are a programmer.", "chat": "You are kind."})
        >>> tuned = mixed.align(model, {"code": "code.jsonl", "chat": "chat.jsonl"})
    """

    system_prompts: dict[str, str] | None = None
    domain: str = "domain"
    sampling: str = "balanced"
    attention: str = "chunk"
    reduction: str = "token"
    order: str = "random"
    max_repeats: int | None = 10

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)
    paper: ClassVar[int | None] = 43
    # Every question a domain of its own: chunks of several members from any records.
    quick: ClassVar[dict[str, Any]] = {**SFT.quick, "domain": "prompt"}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        given = self.system_prompts
        texts = (
            isinstance(given, dict)
            and bool(given)
            and all(isinstance(key, str) and isinstance(text, str) and bool(text) for key, text in given.items())
        )
        require(given is None or texts, f"system_prompts is a text for each domain, by its name, not {given!r}.")
        require(isinstance(self.domain, str) and bool(self.domain), f"domain names a column, not {self.domain!r}.")
        for name, known in (
            ("sampling", SAMPLINGS), ("attention", MODES), ("reduction", REDUCTIONS), ("order", ORDERS)
        ):  # fmt: skip
            value = getattr(self, name)
            require(value in known, f"{name} is one of {', '.join(known)}, not {value!r}.")
        most = self.max_repeats
        whole = isinstance(most, int) and not isinstance(most, bool) and most > 0
        require(most is None or whole, f"max_repeats is a whole number over 0, or None, not {most!r}.")

    def check_records(self, records: Any) -> Records | None:
        """The records, read and checked; a dict of records by domain is joined, with its names in the column."""
        if not isinstance(records, Mapping):
            return super().check_records(records)
        from truing.records import as_records
        from truing.records.reading import from_rows

        if not records:
            raise RecordError("MixtureOfInstructions was given no domain.")
        rows = []
        for name, given in records.items():
            found = as_records(given, kinds=self.record_kinds, what=f"MixtureOfInstructions, domain {name!r},")
            rows += [{**row, self.domain: str(name)} for row in found]
        return from_rows(rows, kind="demonstration", source=", ".join(map(str, records)))

    def objective(self) -> MixtureObjective:
        """The likelihood of answers, in chunks."""
        return MixtureObjective(
            system_prompts=self.system_prompts, domain=self.domain, sampling=self.sampling, attention=self.attention,
            reduction=self.reduction, order=self.order, max_repeats=self.max_repeats, turns=self.turns,
            limit=self.max_length, seed=self.seed,
        )  # fmt: skip

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        # Chunks are filled up to max_length, which therefore has to be a length that the model can read.
        most = context_length(model.weights)
        if most and most < self.max_length:
            return self.clone(max_length=most)._align(model, records, out)
        return super()._align(model, records, out)
