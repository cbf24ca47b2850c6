"""D2O: learning from bad answers alone, with the model's own answers to hold on to."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from truing.contracts import is_number, require, require_whole
from truing.errors import RecordError
from truing.methods.loops import rounds
from truing.methods.training.batches import Batch
from truing.methods.training.checkpoints import TrainingFolder, lasting_settings
from truing.methods.training.encoding import Example, Row, turn
from truing.methods.training.losses.negatives import d2o, d2o_instance, d2o_margin
from truing.methods.training.method import TrainingMethod, check_reference
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.methods.training.self_samples import COLUMN, FILE, SelfSampler, merged, with_samples
from truing.models import Model
from truing.records import Records
from truing.records import read as read_records

_NEGATIVE = "negative"


class D2OObjective(Objective):
    """Own samples as a distribution against each bad answer of their prompt; all of them share one row.

    Args:
        alpha: weight of the bad answer.
        beta: weight of the own samples; 0 for none.
        instance_level: average losses over samples instead of log-ratios.
        per_step: most samples of a row; None for all. A prompt with more comes as several rows.
    """

    record_kind = "dispreference"
    needs_reference = True

    def __init__(
        self, alpha: float = 0.1, beta: float = 0.1, instance_level: bool = False, per_step: int | None = None
    ) -> None:
        self.alpha, self.beta, self.instance_level, self.per_step = alpha, beta, instance_level, per_step

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """One example: the own samples, then the bad answers; none where a prompt has no samples."""
        own = own_samples(row) if self.beta else []
        if self.beta and not own:
            return []
        bad = [turn(row["prompt"], one) for one in row["rejected"]]
        return [
            Example([*((row["prompt"], text) for text in own), *bad], {_NEGATIVE: [0.0] * len(own) + [1.0] * len(bad)})
        ]

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Rows with at most ``per_step`` samples each: every sample in one of them, the bad answers in all."""
        return rows if self.per_step is None else [part for row in rows for part in _parted(row, self.per_step)]

    def units(self, batch: Batch) -> dict[str, int]:
        """Also the number of bad answers."""
        return {**batch.units, _NEGATIVE: int(batch.values[_NEGATIVE].sum())}

    def _parts(self, scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Own log-probabilities under policy and reference, [P, K]; the same of P bad answers, [P]; mask [P, K]."""
        assert scores.reference is not None
        logps = self.sequence_logps(scores.tokens, scores.mask)
        bad = scores.values[_NEGATIVE] > 0
        at = scores.owner[~bad], scores.slot[~bad]
        width = int(at[1].max()) + 1 if len(at[1]) else 0
        shape = logps.new_zeros(scores.rows, width)
        own, reference = shape.index_put(at, logps[~bad]), shape.index_put(at, scores.reference[~bad].to(logps.dtype))
        mask = torch.zeros_like(shape, dtype=torch.bool).index_put(at, torch.ones_like(at[0], dtype=torch.bool))
        row = scores.owner[bad]
        return own[row], reference[row], logps[bad], scores.reference[bad].to(logps.dtype), mask[row]

    def terms(self, scores: Scores) -> list[Term]:
        """The loss of each bad answer."""
        *parts, mask = self._parts(scores)
        loss = d2o_instance if self.instance_level else d2o
        return [Term(loss(*parts, alpha=self.alpha, beta=self.beta, mask=mask), unit=_NEGATIVE)]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Margins, the weight sigmoid(-m) of their gradients, log-ratios of own samples and of bad answers, in nats."""
        own, reference, bad, reference_bad, mask = self._parts(scores)
        margin = d2o_margin(own, reference, bad, reference_bad, alpha=self.alpha, beta=self.beta, mask=mask)
        out = {
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).float(),
            "weights": torch.sigmoid(-margin),
            "logratio/negative": bad - reference_bad,
            "logps/negative": bad,
            "samples": mask.sum(1).float(),
        }
        # Each sample once, though it stands against every bad answer of its prompt.
        kept = scores.values[_NEGATIVE] <= 0
        assert scores.reference is not None
        ratios = (self.sequence_logps(scores.tokens, scores.mask) - scores.reference)[kept]
        return {**out, "logratio/self": ratios} if len(ratios) else out

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """Warnings where a log-probability was lost, where nothing is left to learn, and where own answers fade."""

        def mean(name: str) -> float:
            values = [row[name] for row in metrics if name in row]
            return sum(values) / len(values) if values else math.nan

        lines = []
        if math.isinf(mean("logps/negative")):
            lines.append(
                "Log-probabilities of rejected answers reached minus infinity, which this precision cannot tell from "
                "one another. Train fewer steps, lower the learning rate, or use a wider type."
            )
        if mean("weights") < 0.01:
            lines.append(
                f"By the end the weight of the gradients, sigmoid(-margin), was {mean('weights'):.1g}: the rejected "
                "answers are unlearned, and further steps teach little. Fewer epochs give the same."
            )
        if mean("logratio/self") < -2:
            lines.append(
                f"By the end the own samples were less likely than before training, by {-mean('logratio/self'):.1f} "
                "nats a sample: the model moves away from itself. A lower learning rate, a higher beta or a lower "
                "alpha holds it."
            )
        return lines


class D2O(TrainingMethod):
    """Learn from bad answers alone: make them unlikely, held by answers that the model gives itself.

    Records need a prompt and one or more ``rejected`` answers. To each prompt the model first answers k times, with
    varied instructions in front that ask for a moral answer; scored and trained on are prompt and answer without them.
    The loss sets the mean of these own samples, as a distribution, against each rejected answer, both relative to a
    reference; its gradient fades as the two part, so that nothing collapses as in gradient ascent. Records that have a
    column ``self_responses`` (a list of texts) bring samples of their own, and none are drawn offline.

    After ``online_after`` steps the model in training answers again every ``resample_every`` steps, to the prompts
    that come next; new and old samples are mixed half and half, at most k a prompt. The reference stays. Each such
    round begins with a new optimiser, and holds the learning rate that the schedule has in the round's middle.

    The instructions are supervision too, and may be most of it: on the sandbox SFT on the same samples becomes as
    harmless, and with bare prompts harmlessness does not rise. Compare with ``instructions=[]`` before crediting the
    rejected answers. Own samples may be as bad as what is rejected; the mean over k dilutes that. Log-probabilities are
    sums, so that long samples weigh more: cap their length. Duan et al. 2024 (arXiv 2403.03419); they give no code, and
    the defaults of temperature, length and ``online_after`` are those of another's implementation.

    Args:
        k: own samples of a prompt; those that are empty, cut off or repeated are left out, and the mean is over the
            rest.
        alpha: weight of a rejected answer's log-ratio.
        beta: weight of the own samples' mean log-ratio. 0 samples nothing and leaves the rejected answers alone: NPO
            (Zhang et al. 2024).
        reference_minus: what own samples are compared with (in the paper a more harmful model); None for the model
            that comes in.
        reference_plus: what rejected answers are compared with (a more helpful one); None for the model that comes in.
        temperature: of the samples.
        max_new_tokens: most tokens of a sample.
        instructions: what is put in front while sampling; None for a pool of moral instructions, [] for nothing.
        drop_truncated: leave out samples that were cut off; kept ones teach the model to end there.
        drop_rejected: leave out samples that are equal to a rejected answer of their record.
        online_after: steps after which the model in training is sampled; None for never.
        resample_every: steps between two samplings from then on.
        per_step: most samples in one row; None for all. With fewer a prompt comes several times an epoch, each time
            with other samples, so that memory is less; the mean inside the sigmoid is then over fewer.
        instance_level: average k losses instead of k log-ratios, the variant that the paper argues against.

    Example:
        >>> import truing as tr
        >>> base = tr.load("sandbox/base")
        >>> milder = tr.D2O(learning_rate=1e-4, max_new_tokens=40).align(base, "sandbox/dispreferences")
    """

    learning_rate: float = 1e-6
    k: int = 11
    alpha: float = 0.1
    beta: float = 0.1
    reference_minus: Model | None = None
    reference_plus: Model | None = None
    temperature: float = 0.8
    max_new_tokens: int = 256
    instructions: Sequence[str] | None = None
    drop_truncated: bool = True
    drop_rejected: bool = False
    online_after: int | None = 200
    resample_every: int = 50
    per_step: int | None = None
    instance_level: bool = False

    record_kinds: ClassVar[tuple[str, ...]] = ("dispreference",)
    paper: ClassVar[int | None] = 41
    quick: ClassVar[dict[str, Any]] = {
        **TrainingMethod.quick, "k": 2, "max_new_tokens": 6, "drop_truncated": False, "online_after": 1,
        "resample_every": 1,
    }  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.alpha) and self.alpha > 0, f"alpha is a number over 0, not {self.alpha!r}.")
        require(is_number(self.beta) and self.beta >= 0, f"beta is 0 or more, not {self.beta!r}.")
        self._sampler().validate()
        require_whole(self, ("online_after", "resample_every", "per_step"), optional=("online_after", "per_step"))
        require(
            not self.instance_level or self.beta > 0, "instance_level averages over own samples, and beta=0 has none."
        )
        require(
            self.tokens_per_batch is None or self.max_steps is not None or self.online_after is None or not self.beta,
            "online_after counts steps, and with tokens_per_batch their number is known from max_steps only. Give "
            "max_steps, or online_after=None.",
        )

    def _sampler(self, seed: int | None = None) -> SelfSampler:
        return SelfSampler(
            k=self.k, temperature=self.temperature, max_new_tokens=self.max_new_tokens, instructions=self.instructions,
            drop_truncated=self.drop_truncated, drop_rejected=self.drop_rejected,
            seed=self.seed if seed is None else seed % 2**32,
        )  # fmt: skip

    def objective(self) -> D2OObjective:
        """The loss of each rejected answer."""
        return D2OObjective(self.alpha, self.beta, self.instance_level, self.per_step)

    def check_model(self, model: Any) -> None:
        """Also raise where a reference speaks other tokens."""
        super().check_model(model)
        for name in ("reference_minus", "reference_plus"):
            if getattr(self, name) is not None:
                check_reference(getattr(self, name), model, name)

    def reference_values(self, model: Model, rows: Sequence[Row], compute: Callable[[Model], Tensor]) -> Tensor:
        """Own samples under ``reference_minus``, rejected answers under ``reference_plus``."""
        minus, plus = self.reference_minus or model, self.reference_plus or model
        found = compute(minus)
        if plus is minus:
            return found
        bad = torch.zeros_like(found, dtype=torch.bool)
        for at, row in enumerate(rows):
            flags = row.values[_NEGATIVE]
            bad[at, : len(row.answers)] = torch.tensor(flags) > 0
        return torch.where(bad, compute(plus), found)

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """Records with own samples: theirs, or new ones from the model that comes in."""
        if not self.beta or any(COLUMN in row for row in records):
            return records
        return self._sampler().build(records, model, out=out)

    def _steps(self, records: Records) -> int:
        if self.max_steps:
            return self.max_steps
        most = self.per_step or self.k
        parts = sum(-(-len(own_samples(row)) // most) if self.per_step else 1 for row in records if own_samples(row))
        return max(
            1, math.ceil(self.epochs * math.ceil(math.ceil(parts / self.batch_size) / self.gradient_accumulation))
        )

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        assert records is not None
        prepared = self.prepare(model, records, out)
        if not self.beta or self.online_after is None or self._steps(prepared) <= self.online_after:
            return super()._align(model, prepared, out)
        return self._online(model, prepared, self.online_after, out)

    def _online(self, model: Model, records: Records, first: int, out: Path | None) -> Model:
        """Rounds: on offline samples, then on samples of the model as it is by then."""
        steps = self._steps(records)
        marks = [0, *range(first, steps, self.resample_every), steps]
        folder = None
        if out is not None:
            references = [one and dataclasses.replace(one, modifiers=()).fingerprint for one in self._references]
            folder = TrainingFolder(out, {
                "method": type(self).__name__, "model": dataclasses.replace(model, modifiers=()).fingerprint,
                "records": records.fingerprint, "references": references,
                "settings": lasting_settings(self),
            })  # fmt: skip
            folder.start_log({"rows": len(records), "rounds": len(marks) - 1}, 0)
        current = rounds.widened(model) if self.adapter is None else model
        # With adapters every round is cheap to keep and to load, and needs the one before it.
        done = rounds.newest_finished(out) if self.adapter is None else -1
        pools = [own_samples(row) for row in records]
        order = rounds.passes(len(records), self.seed)
        for number, (begin, end) in enumerate(itertools.pairwise(marks)):
            place = rounds.round_folder(out, number)
            rows = self._next_rows(order, end - begin, len(records))
            chosen = records.select(rows)
            if number:
                if number <= done:
                    assert place is not None
                    new = read_records(place / FILE, kind="dispreference")
                else:
                    new = self._sampler(self.seed + number).build(chosen, current, out=place)
                for row, found in zip(rows, new):
                    pools[row] = merged(own_samples(found), pools[row], self.k)
            if number > done:
                one = self._round(model, number, begin, end, steps)
                current = one._align(current, with_samples(chosen, [pools[row] for row in rows]), place)
                if self.adapter is None:
                    rounds.forget(out, number - 1)
            elif number == done:
                assert out is not None
                current = rounds.restored(current, out, number)
            if folder is not None and place is not None:
                _copy_log(place / "log.jsonl", folder, begin, steps)
        return rounds.narrowed(current, model.weights.dtype) if self.adapter is None else current

    @property
    def _references(self) -> tuple[Any, Any]:
        return self.reference_minus, self.reference_plus

    def _next_rows(self, order: Any, steps: int, count: int) -> list[int]:
        """The records of a round: as many as its steps read, at most all."""
        wanted = count if self.tokens_per_batch else steps * self.batch_size * self.gradient_accumulation
        rows: set[int] = set()
        while len(rows) < min(wanted, count):
            rows.add(next(order))
        return sorted(rows)

    def _round(self, start: Model, number: int, begin: int, end: int, steps: int) -> D2O:
        middle = (begin + end) / 2 / steps
        share = {"linear": 1 - middle, "cosine": (1 + math.cos(math.pi * middle)) / 2, "constant": 1.0}[self.schedule]
        # The first round holds the whole warm-up; in later ones a new optimiser finds its scale.
        warmup = self.warmup_ratio if number else min(0.9, self.warmup_ratio * steps / (end - begin))
        return self.clone(
            online_after=None, max_steps=end - begin, learning_rate=self.learning_rate * share, schedule="constant",
            warmup_ratio=warmup, seed=(self.seed + number) % 2**32, reference_minus=self.reference_minus or start,
            reference_plus=self.reference_plus or start,
        )  # fmt: skip


def own_samples(row: dict[str, Any]) -> list[str]:
    """The own samples of a record.

    Raises:
        RecordError: it has none, or they are no texts.
    """
    found = row.get(COLUMN)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise RecordError(
            f"Column `{COLUMN}` is a list of the model's own answers, texts, in every record or in none; found "
            f"{found!r:.60}."
        )
    return [text for text in found if text.strip()]


def _parted(row: Row, most: int) -> list[Row]:
    flags = row.values[_NEGATIVE]
    assert not isinstance(flags, (int, float))
    own = [at for at, flag in enumerate(flags) if not flag]
    bad = [at for at, flag in enumerate(flags) if flag]
    count = max(1, -(-len(own) // most))
    return [
        Row(row.index, tuple(row.answers[at] for at in kept), {**row.values, _NEGATIVE: [flags[at] for at in kept]})
        for part in np.array_split(np.array(own, dtype=int), count)
        for kept in ([*part.tolist(), *bad],)
    ]


def _copy_log(path: Path, folder: TrainingFolder, begin: int, steps: int) -> None:
    """The lines of a round in the log of the whole training."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "step" in row:
            folder.log({**row, "step": row["step"] + begin, "steps": steps})
