"""Large files: parts that count every row once, rewards over files, and the same work over Ray's actors."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import truing as tr
from tests.measures.models import Scripted
from truing.cli.app import app
from truing.errors import MissingExtraError, RecordError, RewardError, RunError, SettingsError, UnsupportedError
from truing.runs.parts import Parts
from truing.runs.scale import check_spreads, score_file, spread_model
from truing.runs.spreading import RayEngine, spread

RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="needs Ray: pip install 'truing[ray]'")


def written(folder: Path, count: int = 50) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{at}", "completion": "x" * at}) + "\n" for at in range(count)))
    return path


def letters(prompts: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


# --- parts ----------------------------------------------------------------------------------------------------------


def test_parts_count_every_row_once_and_end_in_order(tmp_path: Path) -> None:
    parts = Parts(tmp_path, "value", {"a": 1})
    assert parts.add([4, 2], [0.4, 0.2]) == 2
    assert parts.add([2, 0, 0], [9.0, 0.0, 9.0]) == 1
    again = Parts(tmp_path, "value", {"a": 1})
    assert [index in again for index in range(6)] == [True, False, True, False, True, False]
    with pytest.raises(RunError, match="2 of 5 rows have no value"):
        again.finish(5)
    assert again.add([1, 3], [0.1, 0.3]) == 2
    table = again.finish(5)
    assert table["value"].to_pylist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert pq.read_table(tmp_path / "value.parquet").equals(table)
    assert list(tmp_path.glob("part-*")) == []
    assert len(Parts(tmp_path, "value", {"a": 1})) == 5


def test_parts_of_something_else_are_refused(tmp_path: Path) -> None:
    Parts(tmp_path, "value", {"a": 1})
    with pytest.raises(RunError, match="holds work on something else"):
        Parts(tmp_path, "value", {"a": 2})


def test_a_part_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    Parts(tmp_path, "value", {}).add([0], [1.0])
    (tmp_path / "part-0000000001.writing").write_bytes(b"cut")
    assert len(Parts(tmp_path, "value", {})) == 1


# --- a reward over a file --------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_reward(tmp_path: Path) -> None:
    found = score_file(written(tmp_path), letters, tmp_path / "out", batch=7)
    assert found.rewards.tolist() == list(range(50))
    assert found.mean is not None
    assert found.mean.value == pytest.approx(24.5)
    table = pq.read_table(found.file)
    assert table.column_names == ["index", "reward"]
    assert table["index"].to_pylist() == list(range(50))


def test_a_killed_call_goes_on_and_scores_nothing_twice(tmp_path: Path) -> None:
    seen: list[str] = []

    def dies(prompts: Any, responses: Any) -> list[float]:
        if len(seen) >= 32:
            raise KeyboardInterrupt
        seen.extend(prompts)
        return letters(prompts, responses)

    path = written(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        spread(_pairs(path), lambda: _work(dies), Parts(tmp_path / "out", "reward", {}), batch=1)
    assert len(seen) == 32

    def goes_on(prompts: Any, responses: Any) -> list[float]:
        seen.extend(prompts)
        return letters(prompts, responses)

    parts = Parts(tmp_path / "out", "reward", {})
    kept = len(parts)
    assert kept == 32
    assert spread(_pairs(path), lambda: _work(goes_on), parts, batch=1) == 50
    assert len(seen) == len(set(seen)) == 50
    assert parts.finish(50)["reward"].to_pylist() == list(range(50))


def _pairs(path: Path) -> Iterator[list[str]]:
    return ([row["prompt"], row["completion"]] for row in tr.records.stream(path))


def _work(reward: Any) -> Any:
    return lambda rows: reward([prompt for prompt, _ in rows], [answer for _, answer in rows])


def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for at in range(1000):
            read.append(at)
            yield at

    most = 0

    def work(some: list[int]) -> list[float]:
        nonlocal most
        most = max(most, len(read) - max(some))
        return [float(one) for one in some]

    spread(items(), lambda: work, Parts(tmp_path, "value", {}), batch=4)
    assert len(read) == 1000
    assert most <= 16 * 4


@pytest.mark.parametrize(
    ("row", "column", "error", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "response", RecordError, "a text in the column `response`"),
        ({"prompt": "a", "answers": ["b"]}, "completion", RecordError, "row 1: expected a `prompt` and a text"),
    ],
)
def test_rows_without_an_answer(tmp_path: Path, row: Any, column: str, error: Any, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(error, match=message):
        score_file(path, letters, tmp_path / "out", column=column)


def test_rewards_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="nan for row 0"):
        score_file(written(tmp_path), lambda p, r: [float("nan")] * len(r), tmp_path / "one")
    with pytest.raises(SettingsError, match="no reward"):
        score_file(written(tmp_path), "nothing_of_that_name", tmp_path / "two")


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "completion": "please"}\n{"prompt": "b", "completion": "no"}\n')
    asked = ["score", str(path), "--reward", "{keyword: {words: [please]}}", "--out", str(tmp_path / "out"), "--json"]
    for _ in range(2):
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["mean"]["value"] == 0.5
    wrong = CliRunner().invoke(app, [*asked, "--engine", "spark"])
    assert wrong.exit_code == 2 or isinstance(wrong.exception, SettingsError)


@pytest.mark.parametrize("settings", [{"actors": 0}, {"batch": 0}, {"retries": -1}, {"gpus": -1}])
def test_engines_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        RayEngine(**settings)


def test_what_cannot_be_spread_says_so(tmp_path: Path) -> None:
    check_spreads(tr.HHH(), "hhh")
    for measure, name in ((tr.Perplexity(), "perplexity"), (tr.KL(), "kl")):
        with pytest.raises(UnsupportedError, match=f"`{name}` needs"):
            check_spreads(measure, name)
    with pytest.raises(SettingsError, match="loads the model by its name"):
        spread_model(Scripted(lambda prompt: "x"), RayEngine(), tmp_path)  # type: ignore[arg-type]
    done = CliRunner().invoke(app, ["measure", "hhh", "--model", "sandbox/small", "--engine", "ray"])
    assert "--out FOLDER" in str(done.exception or done.output)


def test_large_files_are_resampled_in_groups(tmp_path: Path, monkeypatch: Any) -> None:
    path = written(tmp_path, 400)
    plain = score_file(path, letters, tmp_path / "one").mean
    monkeypatch.setattr("truing.runs.scale._GROUPS", 100)
    grouped = score_file(path, letters, tmp_path / "two").mean
    assert plain is not None
    assert grouped is not None
    assert grouped.value == pytest.approx(plain.value)
    assert grouped.high - grouped.low == pytest.approx(plain.high - plain.low, rel=0.25)


def test_an_actor_has_a_gpu_where_the_device_is_one() -> None:
    from truing.cli.scoring import engine_from

    assert engine_from("local", 2) is None
    assert engine_from("ray", 3, device="cuda:0") == RayEngine(actors=3, gpus=1)
    assert engine_from("ray", 3, 8, "cpu") == RayEngine(actors=3, batch=8)


@pytest.mark.skipif(RAY, reason="Ray is there")
def test_without_ray_its_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"truing\[ray\]"):
        score_file(written(tmp_path), letters, tmp_path / "out", engine=RayEngine())


# --- over actors ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dies:
    """Scores by length; kills its own process at the answer of so many letters, so many times."""

    marks: str
    at: int
    times: int = 1

    def __call__(self, prompts: Any, responses: Any) -> list[float]:
        there = len(os.listdir(self.marks))
        if any(len(one) == self.at for one in responses) and there < self.times:
            (Path(self.marks) / str(there)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(self.marks).parent / f"actor-{os.getpid()}").touch()
        return [float(len(response)) for response in responses]


def raises(prompts: Any, responses: Any) -> list[float]:
    raise ValueError("this reward is broken")


@pytest.fixture(scope="module")
def session(tmp_path_factory: Any) -> Iterator[None]:
    import ray

    import tests.runs.test_scale as here

    ray.cloudpickle.register_pickle_by_value(here)
    ray.init(
        num_cpus=3, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20, logging_level="ERROR",
        log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.slow
def test_an_actor_killed_in_the_middle_loses_and_doubles_nothing(tmp_path: Path, session: None) -> None:
    (tmp_path / "marks").mkdir()
    path, engine = written(tmp_path, 240), RayEngine(actors=2, batch=8)
    found = score_file(path, Dies(str(tmp_path / "marks"), at=130), tmp_path / "out", engine=engine)
    assert len(os.listdir(tmp_path / "marks")) == 1, "one actor was killed"
    assert len(list(tmp_path.glob("actor-*"))) >= 2, "two actors worked"
    here = score_file(path, letters, tmp_path / "local")
    assert np.array_equal(found.rewards, here.rewards)
    assert found.mean == here.mean
    assert pq.read_table(found.file).equals(pq.read_table(here.file))


@needs_ray
@pytest.mark.slow
def test_an_actor_that_always_dies_is_an_error_and_what_is_done_is_kept(tmp_path: Path, session: None) -> None:
    (tmp_path / "marks").mkdir()
    path, engine = written(tmp_path, 64), RayEngine(actors=2, batch=8, retries=1)
    poison = Dies(str(tmp_path / "marks"), at=60, times=1000)
    with pytest.raises(RunError, match="An actor of Ray died"):
        score_file(path, poison, tmp_path / "out", engine=engine)
    assert 1 <= len(os.listdir(tmp_path / "marks")) <= 10


@needs_ray
@pytest.mark.slow
def test_errors_of_the_work_come_through(tmp_path: Path, session: None) -> None:
    with pytest.raises(RewardError, match="this reward is broken"):
        score_file(written(tmp_path), raises, tmp_path / "out", engine=RayEngine())


@needs_ray
@pytest.mark.slow
def test_a_measure_over_actors_has_the_same_figures(tmp_path: Path, session: None) -> None:
    here = tr.measure("hhh", tr.load("sandbox/small"), limit=20, temperature=0.7)
    asked = ["measure", "hhh", "--model", "sandbox/small", "--limit", "20", "--temperature", "0.7", "--engine", "ray"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*asked, "--actors", "2", "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        there = tr.Result.load(tmp_path / "out" / "result.json")
        assert there.figures == here.figures
        assert [row["answer"] for row in there.samples] == [row["answer"] for row in here.samples]
        assert there.usage["completion_tokens"] == here.usage["completion_tokens"]
    (file,) = (tmp_path / "out").glob("answers-*/answers.parquet")
    assert pq.read_table(file)["index"].to_pylist() == list(range(20))
