"""RAFT: sample, rank by a reward, fine-tune on the best, repeat."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from truing import progress
from truing.contracts import Prompt, Reward, is_number, require, require_whole
from truing.errors import TrainingError
from truing.files import write_atomic
from truing.methods.loops import rounds
from truing.methods.loops.ranking import clean_text, is_discarded, kl_penalised, select_global, select_local
from truing.methods.loops.samples import Sample, figures_of, ranking_rows, scored
from truing.methods.rl.rollouts import encode_prompts, prompt_order
from truing.methods.training.checkpoints import TrainingFolder, lasting_settings
from truing.methods.training.method import TrainingMethod, tell
from truing.methods.training.sft import SFT
from truing.models import AnyModel, Model
from truing.records import Records
from truing.records import read as read_records
from truing.records import write as write_records
from truing.records.reading import from_rows
from truing.rewards import reward_from

RANKINGS = ("local", "global")
SAMPLES, CHOSEN, FIGURES = "samples.jsonl", "chosen.jsonl", "round.json"


class RAFT(TrainingMethod):
    """Sample k responses to each prompt, keep the one that a reward likes best, fine-tune on those, and repeat.

    Supervised training only: no critic, no policy gradient, one model in memory. Any record with a prompt will do.
    Discarded responses are never kept: too short, with a forbidden mark, cut off, or without a reward (NaN). A prompt
    that has none left, or whose rewards differ by less than ``min_gap``, teaches nothing in its round. Of equal rewards
    a response that ended wins over one that was cut off, then the first one.

    The other settings are those of the training in each round: ``epochs`` and ``max_steps`` are passes and steps of a
    round, and the learning rate falls within it. Log-likelihood is of the response alone; the prompt is not learned.

    With a folder, ``log.jsonl`` has a line for each round: the mean reward of the first sample of each prompt before
    anything is discarded (so an unbiased figure of the model that the round began with), that of the selected ones, the
    distance to the start in nats per token on those first samples (log-ratio; an estimate of the KL at temperature 1),
    length, distinct n-grams, repeated samples, and discards by reason. ``round-N/samples.jsonl`` keeps all samples with
    their rewards as ranking records; a killed call repeats no finished round. Watch length and distinct n-grams: what a
    reward can be tricked with shows there first. Dong et al. 2023 (arXiv 2304.06767).

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> floats``, a reward, its name, or its name
            with settings. NaN discards a response.
        k: responses to a prompt; ranking "global" takes one.
        rounds: at most so many; 1 for the offline variant.
        prompts_per_round: drawn without replacement until all were asked; where there are fewer, all of them.
        temperature: of the sampling.
        max_new_tokens: most tokens of a response.
        ranking: "local" keeps the best of each prompt; "global" the best ``top_fraction`` of a whole round, which wants
            rewards that compare across prompts.
        top_fraction: of "global".
        kl: rank by reward - kl * (log-probability of the response less that under the start model), in nats.
        min_gap: leave out prompts whose best and worst reward are nearer than this; 0 keeps all.
        shortest: discard responses with fewer letters; empty ones always.
        forbidden: discard responses that hold one of these texts.
        role_mark: cut responses at the first of these (``###Human``, say), and strip white space and ``#`` at the ends.
        drop_truncated: discard responses that were cut off at ``max_new_tokens``.
        sampler: another model that responds, a stronger one, of any kind (off-policy); None for the model in training.
        patience: stop once so many rounds brought no higher mean reward; None for never.
        min_delta: how much higher it must be.

    Example:
        >>> import truing as tr
        >>> base = tr.load("sandbox/base")
        >>> how = {"rounds": 3, "prompts_per_round": 64, "learning_rate": 3e-4, "max_new_tokens": 40}
        >>> better = tr.RAFT(reward="sandbox_grade", **how).align(base, "sandbox/questions:train")
    """

    reward: Reward | str | dict[str, Any]
    k: int = 8
    rounds: int = 10
    prompts_per_round: int = 2048
    temperature: float = 1.0
    max_new_tokens: int = 128
    ranking: str = "local"
    top_fraction: float = 0.2
    kl: float = 0.0
    min_gap: float = 0.0
    shortest: int = 2
    forbidden: Sequence[str] = ()
    role_mark: str | None = None
    drop_truncated: bool = True
    sampler: AnyModel | None = None
    patience: int | None = 3
    min_delta: float = 0.0
    epochs: float = 2.0

    record_kinds: ClassVar[tuple[str, ...]] = (
        "question", "demonstration", "preference", "label", "dispreference", "judgment", "ranking", "contrast",
    )  # fmt: skip
    needs = frozenset({"gradients", "local_weights", "reward"})
    paper: ClassVar[int | None] = 54
    quick: ClassVar[dict[str, Any]] = {
        **TrainingMethod.quick, "k": 2, "rounds": 2, "max_new_tokens": 6, "drop_truncated": False, "shortest": 1,
    }  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        whole = ("k", "rounds", "prompts_per_round", "max_new_tokens", "patience", "shortest")
        require_whole(self, whole, optional=("patience",))
        warm = is_number(self.temperature) and self.temperature > 0
        require(warm, f"temperature is a number over 0, not {self.temperature!r}: at 0 all samples would be the same.")
        require(self.ranking in RANKINGS, f"ranking is one of {', '.join(RANKINGS)}, not {self.ranking!r}.")
        share = self.top_fraction
        require(is_number(share) and 0 < share <= 1, f"top_fraction is over 0 and at most 1, not {share!r}.")
        for name in ("kl", "min_gap", "min_delta"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is 0 or more, not {value!r}.")
        marks = isinstance(self.forbidden, (list, tuple)) and all(
            isinstance(one, str) and one for one in self.forbidden
        )
        require(marks, f"forbidden is a list of texts, not {self.forbidden!r}.")
        mark = self.role_mark
        require(mark is None or (isinstance(mark, str) and bool(mark)), f"role_mark is a text or None, not {mark!r}.")
        other: Any = self.sampler
        require(other is None or hasattr(other, "generate"), f"sampler is a model or None, not {other!r}.")
        reward_from(self.reward)

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        from truing.rewards.verifiable import bound

        assert records is not None
        plain = dataclasses.replace(model, modifiers=())
        encoded, too_long = encode_prompts(plain, records)
        prompts = list({json.dumps(prompt, sort_keys=True): prompt for prompt, _ in encoded}.values())
        if too_long:
            tell(f"{too_long:,} of {len(records):,} prompts leave no room for an answer and are left out.")
        if model.modifiers:
            names = ", ".join(type(modifier).__name__ for modifier in model.modifiers)
            tell(f"{names} does not act in training; the result carries it on.")
        folder = None
        if out is not None:
            identity = {
                "method": type(self).__name__, "model": plain.fingerprint, "records": records.fingerprint,
                "sampler": self.sampler and self.sampler.fingerprint,
                "settings": lasting_settings(self),
            }  # fmt: skip
            folder = TrainingFolder(out, identity)
            folder.start_log({"prompts": len(prompts), "left_out": too_long}, 0)
        aligned = self._loop(plain, prompts, bound(reward_from(self.reward), records), folder, out)
        return dataclasses.replace(aligned, modifiers=model.modifiers)

    def _loop(
        self, start: Model, prompts: list[Prompt], reward: Reward, folder: TrainingFolder | None, out: Path | None
    ) -> Model:
        current = rounds.widened(start) if self.adapter is None else start
        # With adapters every round is cheap to keep and to load, and needs the one before it.
        done = rounds.newest_finished(out) if self.adapter is None else -1
        size = min(self.prompts_per_round, len(prompts))
        order = prompt_order(len(prompts), size * self.rounds, self.seed)
        means: list[float] = []
        with progress.task("RAFT", self.rounds) as bar:
            for number in range(self.rounds):
                place = rounds.round_folder(out, number)
                asked = [prompts[at] for at in order[number * size : (number + 1) * size]]
                figures, chosen = self._sampled(number, start, current, asked, reward, place)
                means.append(figures["reward"])
                if folder is not None:
                    folder.log({"event": "round", **figures})
                progress.say(_line(figures))
                if plateau(means, self.patience, self.min_delta):
                    tell(
                        f"Round {number + 1} stops before its training: the mean reward did not rise in "
                        f"{self.patience} rounds."
                    )
                    break
                if chosen is None:
                    if not number:
                        raise TrainingError(f"No response was kept in the first round: {_reasons(figures)}.")
                    tell(f"Round {number + 1} stops: no response was kept ({_reasons(figures)}).")
                    break
                if number > done:
                    current = self._sft(number)._align(current, chosen, place)
                    if self.adapter is None:
                        rounds.forget(out, number - 1)
                elif number == done:
                    assert out is not None
                    current = rounds.restored(current, out, number)
                bar.advance(1, f"reward {figures['reward']:.3f}")
        return rounds.narrowed(current, start.weights.dtype) if self.adapter is None else current

    def _sft(self, number: int) -> SFT:
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainingMethod)}
        return SFT(**{**shared, "seed": (self.seed + number) % 2**32})

    def _sampled(
        self, number: int, start: Model, current: Model, prompts: list[Prompt], reward: Reward, place: Path | None
    ) -> tuple[dict[str, Any], Records | None]:
        """The figures of a round and what is learned in it; from its folder where they are there."""
        if place is not None and (place / FIGURES).is_file():
            figures = json.loads((place / FIGURES).read_text(encoding="utf-8"))
            has = (place / CHOSEN).is_file()
            return figures, read_records(place / CHOSEN, kind="demonstration") if has else None
        count = self.k if self.ranking == "local" else 1
        how: dict[str, Any] = {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed << 16 | number,
        }
        answers = (self.sampler or current).generate(prompts, n=count, **how).grouped()
        groups = self._judged(prompts, answers, reward)
        # The first sample stands for the model, whatever is discarded; another model's stands for nothing.
        own = [group[:1] for group in groups]
        if self.sampler is not None:
            own = self._judged(prompts, current.generate(prompts, n=1, **how).grouped(), reward)
        scores = [[math.nan if one.why else one.reward for one in group] for group in groups]
        if self.kl:
            now, then = (_logps(one, prompts, groups) for one in (current, start))
            scores = [
                kl_penalised(row, [x.sum() for x in left], [x.sum() for x in right], self.kl).tolist()
                for row, left, right in zip(scores, now, then)
            ]
        picked = self._select(scores, groups)
        distance = (0.0, 0.0)
        if number:
            distance = _distance(_logps(current, prompts, own), _logps(start, prompts, own))
        figures = {"round": number + 1, **figures_of(groups, own, picked)}
        figures["kl_per_token"], figures["kl_error"] = distance
        rows = [
            {"prompt": prompts[at], "completion": groups[at][one].text}
            for at, one in enumerate(picked)
            if one is not None
        ]
        chosen = from_rows(rows, kind="demonstration", source=f"RAFT, round {number + 1}") if rows else None
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            ranked = ranking_rows(prompts, groups, picked)
            if ranked:
                write_records(from_rows(ranked, kind="ranking"), place / SAMPLES)
            if chosen is not None:
                write_records(chosen, place / CHOSEN)
            write_atomic(place / FIGURES, json.dumps(figures))
        return figures, chosen

    def _judged(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Any]], reward: Reward
    ) -> list[list[Sample]]:
        texts = [[clean_text(one.text, self.role_mark) if self.role_mark else one.text for one in g] for g in answers]
        asked = [prompt for prompt, group in zip(prompts, texts) for _ in group]
        values = iter(scored(reward, asked, [text for group in texts for text in group]).tolist())
        out = []
        for group, made in zip(texts, answers):
            samples = [Sample(text, one.finish_reason != "length", next(values)) for text, one in zip(group, made)]
            out.append([dataclasses.replace(one, why=self._why(one)) for one in samples])
        return out

    def _why(self, one: Sample) -> str:
        if not one.text.strip() or is_discarded(one.text, forbidden=(), shortest=self.shortest):
            return "short"
        if is_discarded(one.text, forbidden=self.forbidden, shortest=0):
            return "forbidden"
        if not one.ended and self.drop_truncated:
            return "cut_off"
        return "no_reward" if math.isnan(one.reward) else ""

    def _select(self, scores: list[list[float]], groups: list[list[Sample]]) -> list[int | None]:
        if self.ranking == "local":
            ended = [[one.ended for one in group] for group in groups]
            # The gap is of rewards, whatever the ranking adds to them.
            gap = [[one.reward for one in group if not one.why] if self.min_gap else [] for group in groups]
            picked = select_local(scores, ended=ended)
            return [None if near(row, self.min_gap) else one for row, one in zip(gap, picked)]
        best = set(select_global([row[0] for row in scores], self.top_fraction))
        return [0 if at in best else None for at in range(len(scores))]


def near(rewards: Sequence[float], gap: float) -> bool:
    """Whether rewards differ by less than a gap; never where there is no gap."""
    return gap > 0 and (not rewards or max(rewards) - min(rewards) < gap)


def plateau(means: Sequence[float], patience: int | None, min_delta: float = 0.0) -> bool:
    """Whether the last ``patience`` values are at most ``min_delta`` above the best one before them."""
    if patience is None or len(means) <= patience:
        return False
    return max(means[-patience:]) <= max(means[:-patience]) + min_delta


def _logps(model: Model, prompts: Sequence[Prompt], groups: Sequence[Sequence[Sample]]) -> list[list[np.ndarray]]:
    """Token log-probabilities of all samples; a sample that was cut off has no end token."""
    asked = [prompt for prompt, group in zip(prompts, groups) for _ in group]
    flat = [one for group in groups for one in group]
    found = model.logprobs(asked, [one.text for one in flat], per_token=True)
    values = iter(v if one.ended else v[:-1] for v, one in zip(found, flat))
    return [[next(values) for _ in group] for group in groups]


def _distance(now: Sequence[Sequence[np.ndarray]], then: Sequence[Sequence[np.ndarray]]) -> tuple[float, float]:
    """Mean log-ratio of a token, in nats, and its standard error over prompts (a ratio of sums, to first order)."""
    ahead = np.array([sum(float(a.sum() - b.sum()) for a, b in zip(x, y)) for x, y in zip(now, then)])
    tokens = np.array([sum(len(a) for a in x) for x in now])
    mean = ahead.sum() / max(1, tokens.sum())
    spread = (ahead - mean * tokens).std(ddof=1) if len(ahead) > 1 else 0.0
    return float(mean), float(spread * math.sqrt(len(ahead)) / max(1, tokens.sum()))


def _reasons(figures: dict[str, Any]) -> str:
    lost = [f"{count:,} {why.replace('_', ' ')}" for why, count in figures["discarded"].items()]
    return f"of {figures['samples']:,} samples {', '.join(lost) or 'none'} discarded"


def _line(figures: dict[str, Any]) -> str:
    return (
        f"round {figures['round']}: reward {figures['reward']:.3f}, selected {figures['selected_reward']:.3f} "
        f"({figures['selected']:,} of {figures['prompts']:,} prompts), {figures['kl_per_token']:.3f} nats a token from "
        f"the start, {figures['length']:.1f} words"
    )
