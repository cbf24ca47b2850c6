"""Work on many rows, here or spread over Ray actors: the same values either way, once each and in order."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing import errors, progress
from truing.contracts import is_number, is_whole, require
from truing.errors import MissingExtraError, RunError, TruingError

if TYPE_CHECKING:
    from truing.runs.parts import Parts

Work = Callable[[list[Any]], list[Any]]
_OBJECT_STORE = 256 * 2**20
_ROWS_A_FILE = 16_384


@dataclass(frozen=True)
class RayEngine:
    """How work is spread over the actors of Ray Data, each of which holds what the work needs (a model, a reward).

    A cluster that is named by ``RAY_ADDRESS``, or that the process is already part of, is used; else one is started on
    this machine and stopped afterwards.

    Args:
        actors: how many; each takes one CPU.
        batch: rows that an actor is given at a time.
        retries: how often an actor is started again, and a batch tried again, after a death. Errors of the work itself
            are not tried again.
        gpus: of each actor.
    """

    actors: int = 2
    batch: int = 64
    retries: int = 3
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("actors", 1), ("batch", 1), ("retries", 0)):
            value = getattr(self, name)
            require(is_whole(value) and value >= least, f"{name} is a number from {least}, not {value!r}.")
        require(is_number(self.gpus) and self.gpus >= 0, f"gpus is a number from 0, not {self.gpus!r}.")


def spread(
    items: Iterable[Any], make: Callable[[], Work], parts: Parts, engine: RayEngine | None = None, label: str = "",
    batch: int = 256,
) -> int:  # fmt: skip
    """Put a value for every item into the parts; how many items there are. Items that have one are passed over.

    Args:
        items: plain data; read once, never all in memory.
        make: gives what turns a list of items into as many values; called once in every actor, and pickled for it.
        parts: where the values go, by the place of their item from 0.
        engine: where the work is done; None for here, in this process.
        label: shown beside progress.
        batch: items a call, where the work is done here.

    Raises:
        RunError: an actor died more often than the engine allows.
        TruingError: the work raised it.
    """
    count = _Count(items, parts)
    if engine is None:
        work = make()
        with progress.task(label) as bar:
            for some in _batches(iter(count), batch * 16):
                values = [
                    value
                    for at in range(0, len(some), batch)
                    for value in work([item for _, item in some[at : at + batch]])
                ]
                bar.advance(parts.add([index for index, _ in some], values))
        return count.rows
    _check_ray()
    for left in parts.folder.glob("input-*"):  # of a call that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="input-", dir=parts.folder) as folder:
        if _write(iter(count), Path(folder)):
            with _session(engine), _plain_errors(engine), progress.task(label, count.rows - len(parts)) as bar:
                for indices, values in _spread(Path(folder), make, engine):
                    bar.advance(parts.add(indices, values))
    return count.rows


class _Count:
    """Items that have no value yet, with their places; counts all of them on the way."""

    def __init__(self, items: Iterable[Any], parts: Parts) -> None:
        self.items, self.parts, self.rows = items, parts, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for index, item in enumerate(self.items):
            self.rows = index + 1
            if index not in self.parts:
                yield index, item


def _batches(pairs: Iterator[tuple[int, Any]], size: int) -> Iterator[list[tuple[int, Any]]]:
    while some := list(islice(pairs, size)):
        yield some


def _write(pairs: Iterator[tuple[int, Any]], folder: Path) -> int:
    """The items as Parquet files that Ray reads from, one after the other; how many files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = 0
    for files, some in enumerate(_batches(pairs, _ROWS_A_FILE), 1):
        table = pa.table(
            {"index": pa.array([index for index, _ in some], pa.int64()), "item": [json.dumps(one) for _, one in some]}
        )
        pq.write_table(table, folder / f"{files:06d}.parquet")
    return files


class _Actor:
    """Holds what the work needs, and gives each row's value beside its index.

    An error of truing's own travels as text, since Ray gives the traceback of what an actor raised and not the error.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self.work: Work | None = None
        self.error = ""
        try:
            self.work = make()
        except TruingError as error:
            self.error = _told(error)

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        values: list[Any] = [None] * len(table)
        error = self.error
        if self.work is not None:
            try:
                values = self.work([json.loads(one) for one in table["item"].to_pylist()])
            except TruingError as raised:
                error = _told(raised)
        return pa.table({"index": table["index"], "value": values, "error": [error] * len(table)})


def _told(error: TruingError) -> str:
    return json.dumps([type(error).__name__, str(error)])


def _raise(told: str) -> None:
    name, text = json.loads(told)
    kind = getattr(errors, name, RunError)
    raise (RunError if kind is MissingExtraError else kind)(text)


def _spread(folder: Path, make: Callable[[], Work], engine: RayEngine) -> Iterator[tuple[list[int], list[Any]]]:
    import ray.data

    # One file is one block, whatever its length, and a block is worked on by one actor.
    rows = ray.data.read_parquet(str(folder)).repartition(target_num_rows_per_block=engine.batch)
    found = rows.map_batches(
        _Actor,
        fn_constructor_kwargs={"make": make},
        batch_size=engine.batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=engine.actors),
        num_cpus=1,
        num_gpus=engine.gpus or None,
        # Ray Data's own defaults are endless: an actor that always dies would be started for ever.
        max_restarts=engine.retries,
        max_task_retries=engine.retries,
    )
    for table in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        for told in table["error"].unique().to_pylist():
            if told:
                _raise(told)
        yield table["index"].to_pylist(), table["value"].to_pylist()


def _check_ray() -> None:
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise MissingExtraError("ray[data]", "ray") from None


@contextlib.contextmanager
def _session(engine: RayEngine) -> Iterator[None]:
    """Ray with its data library, started for as long as this lasts where it does not run yet."""
    import ray
    import ray.data

    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = settings.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {
        "num_cpus": engine.actors + 1, "include_dashboard": False, "object_store_memory": _OBJECT_STORE,
        **({"num_gpus": None} if engine.gpus else {"num_gpus": 0}),
    }  # fmt: skip
    ray.init(logging_level="ERROR", log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else here))
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _plain_errors(engine: RayEngine) -> Iterator[None]:
    """What the work raised in an actor, as it would be raised here; a death as one clear error."""
    import ray.exceptions

    try:
        # Ray Data says at length what it does, and that bounds of restarts will be given otherwise in Ray 2.64.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray\.data|truing\.runs\.spreading")
            yield
    except TruingError:
        raise
    except Exception as error:
        chain = list(_causes(error))
        if any(isinstance(one, (ray.exceptions.ActorDiedError, ray.exceptions.WorkerCrashedError)) for one in chain):
            raise RunError(
                f"An actor of Ray died and came back {engine.retries} times, and the batch with it: too little memory, "
                "most often. Give fewer actors or a smaller batch. What is done is kept; start the same again."
            ) from error
        last = chain[-1]
        raise RunError(f"The work in an actor of Ray raised {type(last).__name__}: {str(last)[-500:]}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [getattr(one, "cause", None), one.__cause__]
