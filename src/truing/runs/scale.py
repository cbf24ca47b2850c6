"""Large files: models that answer from several actors, and rewards over files that do not fit in memory."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.models.types import Completion, Completions, Usage, as_prompts
from truing.runs.parts import Parts
from truing.runs.spreading import RayEngine, Work, spread

if TYPE_CHECKING:
    from truing.contracts import Measure
    from truing.measures.statistics import Estimate
    from truing.models import AnyModel

_GROUPS = 10_000


@dataclasses.dataclass(frozen=True)
class Answering:
    """What an actor needs to answer: the model by name, how it is loaded, and how answers are sampled."""

    model: str
    loading: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self) -> Work:
        from truing.models import load

        model: Any = load(self.model, **self.loading)

        def work(prompts: list[Any]) -> list[str]:
            said = model.generate(prompts, **self.settings)
            rows: list[dict[str, Any]] = [{"answers": []} for _ in prompts]
            for one in said:
                rows[one.prompt_index]["answers"].append([one.text, one.finish_reason])
            # What a batch cost stands once, beside its first answer.
            rows[0]["usage"] = dataclasses.asdict(said.usage)
            return [json.dumps(row) for row in rows]

        return work


class SpreadModel:
    """A model whose answers are written by several actors, each with a copy of it. Everything else about it (name,
    history, fingerprint, probabilities) is the model's own in this process. Made by `spread_model`.
    """

    # All prompts in one call: starting actors takes seconds.
    at_once = sys.maxsize

    def __init__(self, model: AnyModel, work: Answering, engine: RayEngine, out: Path) -> None:
        self._model, self._work, self._engine, self._out = model, work, engine, out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, prompts: Any, **settings: Any) -> Completions:
        """Answers to the prompts, as the model's own `generate` gives them, without tokens and log-probabilities.

        They are kept in the folder, and a call that was killed goes on with what is there.
        """
        from truing.measures.journal import fingerprint, key_of

        asked = as_prompts(prompts)
        about = {"model": fingerprint(self._model), "settings": settings, "prompts": key_of(asked)}
        parts = Parts(self._out / f"answers-{key_of(about)[:12]}", "answers", about)
        work = dataclasses.replace(self._work, settings=settings)
        count = spread(asked, work, parts, self._engine, f"{self._model.name}, {self._engine.actors} actors")
        found, usage = [], Usage()
        for index, value in enumerate(parts.finish(count)["answers"].to_pylist()):
            row = json.loads(value)
            usage += Usage(**row.get("usage", {}))
            found += [Completion(text, finish_reason=why, prompt_index=index) for text, why in row["answers"]]
        return Completions(found, usage)


def spread_model(name: str | Path, engine: RayEngine, out: str | Path, **loading: Any) -> SpreadModel:
    """A model that answers from the actors of an engine, to be given to measures in the place of the model itself.

    Args:
        name: of the model, or its folder; every actor loads it, and this process too.
        engine: how many actors, and how.
        out: a folder for the answers, in Parquet.
        loading: further arguments of `truing.load`.

    Raises:
        SettingsError: a model object is given instead of a name.
    """
    from truing.models import load

    if not isinstance(name, (str, Path)):
        raise SettingsError(f"Every actor loads the model by its name, and a {type(name).__name__} was given. Save it.")
    work = Answering(str(name), {key: value for key, value in loading.items() if value is not None})
    return SpreadModel(load(str(name), **loading), work, engine, Path(out))


def check_spreads(measure: Measure, name: str) -> None:
    """Raise `UnsupportedError` for a measure whose questions cannot be asked by actors."""
    from truing.measures.asking import Asking

    if not isinstance(measure, Asking) or measure.needs:
        why = f"needs {', '.join(sorted(measure.needs))}" if measure.needs else "asks none that way"
        raise UnsupportedError(
            f"The engine ray spreads the answers to a measure's questions, and `{name}` {why}. Leave --engine away."
        )


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What an actor needs to score answers: a reward, or its name with settings as a recipe writes it."""

    reward: Any

    def __call__(self) -> Work:
        from truing.rewards import checked, reward_from

        reward = reward_from(self.reward)

        def work(rows: list[Any]) -> list[float]:
            return checked(reward, [prompt for prompt, _ in rows], [answer for _, answer in rows]).tolist()

        return work


@dataclasses.dataclass(frozen=True)
class Scores:
    """What `score_file` gives.

    Args:
        mean: of all rewards, with its interval; None for a single row.
        rewards: float64, one for each row of the file, in its order.
        file: the Parquet file with the columns ``index`` (the row from 0) and ``reward``.
    """

    mean: Estimate | None
    rewards: np.ndarray
    file: Path


def score_file(
    path: str | Path, reward: Any, out: str | Path, *, column: str = "completion", engine: RayEngine | None = None,
    batch: int = 256,
) -> Scores:  # fmt: skip
    """The reward of every answer in a file of any length, which is read row by row.

    A killed call goes on where it stopped.

    Args:
        path: records with a ``prompt`` and an answer.
        reward: a reward, or its name with settings as a recipe writes it.
        out: a folder for the rewards, in Parquet.
        column: the column of answers.
        engine: RayEngine to spread the work over actors; None for this process.
        batch: answers that the reward is given at a time, without an engine.

    Raises:
        RecordError: a row cannot be read, or has no prompt or answer.
        RewardError: an answer cannot be scored.
        RunError: the folder holds scores of something else.
    """
    from truing.measures import statistics
    from truing.measures.journal import identity
    from truing.rewards import name_of, reward_from

    reward_from(reward)  # a name that does not exist, or settings that cannot work, before any row is read
    known = reward if isinstance(reward, (str, dict)) else identity(reward) or name_of(reward)
    file = Path(path)
    state = file.stat() if file.is_file() else None
    about = {
        "file": str(file.resolve()) if state else str(path), "column": column, "reward": known,
        "size": state and state.st_size, "changed": state and state.st_mtime_ns,
    }  # fmt: skip
    parts = Parts(Path(out), "reward", about)
    count = spread(_pairs(path, column), Scoring(reward), parts, engine, "score", batch)
    rewards = parts.finish(count)["reward"].to_numpy()
    # Resampling a million rows takes minutes and tells no more than resampling many random groups of them.
    groups = np.random.default_rng(0).permutation(len(rewards)) % _GROUPS if len(rewards) > 2 * _GROUPS else None
    return Scores(statistics.mean(rewards, clusters=None if groups is None else groups.tolist()), rewards, parts.file)


def _pairs(path: str | Path, column: str) -> Iterator[list[Any]]:
    from truing.records import stream

    for number, row in enumerate(stream(path), 1):
        if "prompt" not in row or not isinstance(row.get(column), str):
            raise RecordError(
                f"{path}, row {number}: expected a `prompt` and a text in the column `{column}`; there are "
                f"{', '.join(row)}. Name the column of answers with `column`."
            )
        yield [row["prompt"], row[column]]
