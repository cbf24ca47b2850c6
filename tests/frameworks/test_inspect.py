"""Models of truing inside Inspect, and measures as its tasks, end to end on files made here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import truing as tr
from tests import tiny
from tests.models.server import serving
from truing import catalogue
from truing.errors import TruingError, UnsupportedError
from truing.measures import Column, Outcome
from truing.measures.asking import Questionnaire
from truing.models import Model
from truing.models.alignment import with_heads
from truing.models.scored import ScoreModel

inspect_ai = pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai._util.error import PrerequisiteError  # noqa: E402
from inspect_ai.dataset import json_dataset  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
)
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402
from inspect_ai.tool import ToolInfo  # noqa: E402

from truing.frameworks import as_inspect, inspect_entry, inspect_inside, inspect_provider  # noqa: E402

QUIET = {"display": "none", "log_realtime": False, "score_display": False}
PROMPTS = [f"{start} {n}" for n in range(4) for start in ("the cat", "what is the colour of", "a red bird on the mat")]
GREEDY = {"max_new_tokens": 12}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """Logs, caches and traces of Inspect stay in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def ask(model, messages, tools=(), **config):
    """One answer from the provider itself."""
    messages = [ChatMessageUser(content=messages)] if isinstance(messages, str) else list(messages)
    config = GenerateConfig(**{"max_tokens": 12, **config})
    return asyncio.run(as_inspect(model).api.generate(messages, list(tools), "auto", config))


def file_of(tmp_path, prompts):
    path = tmp_path / "questions.jsonl"
    rows = [{"id": at, "input": prompt, "target": "e"} for at, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return json_dataset(str(path))


def carried(task, model, tmp_path, **more):
    """The log of an evaluation, read from its file, and its samples by id."""
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(tmp_path / "logs"), **{**QUIET, **more})
    assert log.status == "success", log.error
    read = read_eval_log(log.location)
    return read, {(sample.id, sample.epoch): sample for sample in read.samples}


# --- the provider -----------------------------------------------------------------------------------------------------


def test_an_evaluation_of_a_folder_gives_what_generate_gives(models, folders, tmp_path):
    task = inspect_ai.Task(dataset=file_of(tmp_path, PROMPTS), solver=generate(), scorer=includes())
    log, samples = carried(task, f"truing/{folders['steered']}", tmp_path, max_tokens=12, max_connections=64)
    alone = models["steered"].generate(PROMPTS, **GREEDY)
    assert alone.texts != models["base"].generate(PROMPTS, **GREEDY).texts
    for at, answer in enumerate(alone):
        output = samples[at, 1].output
        assert output.completion == answer.text
        assert output.stop_reason == {"stop": "stop", "length": "max_tokens"}[answer.finish_reason]
        assert output.usage.output_tokens == len(answer.tokens)
        assert output.usage.input_tokens == len(models["steered"].encode_prompt(PROMPTS[at]))
    (usage,) = log.stats.model_usage.values()
    assert usage.output_tokens == sum(len(answer.tokens) for answer in alone)


def test_as_inspect_is_shipped_as_many_are_asked_at_once_as_are_batched_well(models, monkeypatch):
    assert as_inspect(models["base"]).config.max_connections == inspect_provider.AT_ONCE
    told = inspect_ai.model.GenerateConfig(max_connections=3)
    inspect_provider.TruingAPI("base", config=told, model=models["base"])
    assert told.max_connections == 3
    feeling = inspect_ai.model.GenerateConfig(adaptive_connections=True)
    inspect_provider.TruingAPI("base", config=feeling, model=models["base"])
    assert feeling.max_connections is None
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    remote = as_inspect(tr.load("openai/far", base_url="http://localhost:1"))
    assert remote.config.max_connections is None  # whose server has its own limits


def test_a_release_of_inspect_that_says_no_epoch_is_one_message(models, monkeypatch):
    import inspect_ai.solver._task_state as inside

    monkeypatch.delattr(inside, "sample_state")
    with pytest.raises(UnsupportedError, match=f"inspect_ai{re.escape(inspect_inside.VERSIONS)}'"):
        inspect_inside.epoch()
    pins = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'inspect = ["inspect_ai{inspect_inside.VERSIONS}"]' in pins


def test_mistakes_are_told_where_inspect_has_no_such_error(monkeypatch):
    import inspect_ai._util.error as inside

    monkeypatch.delattr(inside, "PrerequisiteError")
    with pytest.raises(TruingError, match="at least 1"):
        inspect_entry.TASKS["capability"](limit=0)


def test_requests_share_a_batch(models):
    api, scheduler = as_inspect(models["base"]).api, inspect_provider.runners()[0]
    config = GenerateConfig(max_tokens=12)

    async def together():
        calls = [api.generate([ChatMessageUser(content=prompt)], [], "auto", config) for prompt in PROMPTS]
        return await asyncio.gather(*calls)

    before = scheduler.steps
    outputs = asyncio.run(together())
    steps = scheduler.steps - before
    assert [output.completion for output in outputs] == models["base"].generate(PROMPTS, **GREEDY).texts
    assert steps <= sum(output.usage.output_tokens for output in outputs) / 3


def test_modifiers_are_turned_in_the_name(models, folders):
    turned = inspect_ai.model.get_model(f"truing/{folders['steered']}@steering=-2").api
    off = inspect_ai.model.get_model(f"truing/{folders['steered']}@steering=off").api
    assert turned.model.modifiers[0].strength == -2
    assert not off.model.modifiers
    assert ask(off.model, "the cat").completion == models["base"].generate("the cat", **GREEDY)[0].text


def test_sampling_has_the_seeds_of_truing_and_epochs_their_own(models, tmp_path):
    task = inspect_ai.Task(dataset=file_of(tmp_path, PROMPTS[:4]), solver=generate(), scorer=includes(), epochs=2)
    how = {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": 5}
    runs = [carried(task, as_inspect(models["base"]), tmp_path, max_tokens=12, **how)[1] for _ in range(2)]
    alone = models["base"].generate(PROMPTS[:4], **GREEDY, **how).texts
    first, second = ([runs[0][at, epoch].output.completion for at in range(4)] for epoch in (1, 2))
    assert first == alone
    assert all(one != two for one, two in zip(first, second))
    assert [runs[1][at, 2].output.completion for at in range(4)] == second
    assert runs[0][0, 1].output.metadata["seed"] == 5


def test_without_a_seed_each_call_draws_its_own(models):
    seen = {ask(models["base"], "the cat", temperature=1.5).completion for _ in range(4)}
    assert len(seen) == 4
    assert len({ask(models["base"], "the cat").completion for _ in range(2)}) == 1


def test_choices_stop_strings_and_logprobs(models):
    base = models["base"]
    output = ask(
        base, "the cat", num_choices=3, temperature=1.0, seed=2, stop_seqs=["e"], logprobs=True, top_logprobs=2
    )
    alone = base.generate("the cat", **GREEDY, n=3, temperature=1.0, seed=2, stop=["e"])
    assert [choice.message.text for choice in output.choices] == alone.texts
    assert output.usage.output_tokens == sum(len(answer.tokens) for answer in alone)
    assert output.usage.input_tokens == len(base.encode_prompt("the cat"))
    for choice, answer in zip(output.choices, alone):
        content = choice.logprobs.content
        # Of the tokens that were drawn, not of the likeliest ones.
        assert [token.logprob for token in content] == pytest.approx(answer.logprobs, abs=1e-5)
        assert b"".join(bytes(token.bytes) for token in content).decode(errors="replace").startswith(answer.text)
        assert all(
            token.logprob <= token.top_logprobs[0].logprob + 1e-6 and len(token.top_logprobs) == 2 for token in content
        )


def test_conversations(models):
    told, base = models["told"], models["base"]
    turns = [
        ChatMessageSystem(content="the stone is grey"),
        ChatMessageUser(content=[ContentText(text="what is "), ContentText(text="it?")]),
        ChatMessageAssistant(content=[ContentReasoning(reasoning="unseen"), ContentText(text="of course")]),
        ChatMessageUser(content="the cat"),
    ]
    plain = [
        {"role": "system", "content": "the stone is grey"},
        {"role": "user", "content": "what is it?"},
        {"role": "assistant", "content": "of course"},
        {"role": "user", "content": "the cat"},
    ]
    for model in (base, told):
        output = ask(model, turns)
        assert output.completion == model.generate([plain], **GREEDY)[0].text
        assert output.usage.input_tokens == len(model.encode_prompt(plain))
    begun = [ChatMessageUser(content="the cat"), ChatMessageAssistant(content="sat on")]
    goes_on = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}]
    assert ask(base, begun).completion == base.generate([goes_on], **GREEDY)[0].text


def test_a_search_answers_as_it_does_alone(models):
    output = ask(models["best"], "the cat", seed=3)
    alone = models["best"].generate("the cat", **GREEDY, seed=3)[0]
    assert output.completion == alone.text
    assert output.metadata["trace"][0].keys() == alone.trace.keys()
    with pytest.raises(UnsupportedError, match="searches among answers"):
        ask(models["best"], "the cat", logprobs=True)


def test_what_does_not_fit_is_told_in_inspects_words(models):
    long = ask(models["base"], "the cat sat on " * 200)
    assert long.stop_reason == "model_length"
    assert "255 tokens are taken here at most" in long.error
    near = ask(models["base"], "the cat " * 70, max_tokens=400)
    assert near.stop_reason in ("model_length", "stop")
    room = 256 - near.usage.input_tokens
    assert near.usage.output_tokens == room or near.stop_reason == "stop"
    assert ask(models["base"], "the cat", max_tokens=2).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("messages", "config", "said"),
    [
        ([ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])], {}, "reads text only"),
        ([ChatMessageUser(content="a"), ChatMessageTool(content="4", function="add")], {}, "calls of tools"),
        ("a", {"frequency_penalty": 0.5}, "no `frequency_penalty`"),
        ("a", {"logit_bias": {3: 5.0}}, "no `logit_bias`"),
        ("a", {"top_logprobs": 2}, "needs `logprobs`"),
    ],
)
def test_what_it_cannot_do_is_refused(models, messages, config, said):
    with pytest.raises(UnsupportedError, match=said):
        ask(models["base"], messages, **config)


def test_tools_are_refused_and_the_sample_says_why(models, tmp_path):
    with pytest.raises(UnsupportedError, match=r"tools \(add\)"):
        ask(models["base"], "a", tools=[ToolInfo(name="add", description="Adds.")])
    task = inspect_ai.Task(
        dataset=file_of(tmp_path, ["a"]), solver=[inspect_ai.solver.use_tools(_adder()), generate()], scorer=includes()
    )
    (log,) = inspect_ai.eval(task, model=as_inspect(models["base"]), log_dir=str(tmp_path), **QUIET)
    assert log.status == "error"
    assert "truing's models call none" in log.error.message


def _adder():
    @inspect_ai.tool.tool
    def add():
        async def execute(x: int, y: int) -> str:
            """Add.

            Args:
                x: One.
                y: Another.
            """
            return str(x + y)

        return execute

    return add()


def test_a_cancelled_request_leaves_the_batch(models):
    scheduler = inspect_provider.runners()[0]

    async def leave():
        call = as_inspect(models["base"]).api.generate(
            [ChatMessageUser(content="the cat")], [], "auto", GenerateConfig(max_tokens=200, temperature=1.0)
        )  # fmt: skip
        running = asyncio.ensure_future(call)
        while not scheduler.running:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        for _ in range(500):
            if not scheduler.running and not scheduler.waiting:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it still runs")

    asyncio.run(leave())


def test_a_remote_model_keeps_its_modifiers(models, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving() as server:
        remote = tr.load("openai/far", base_url=server.url).with_modifier(models["told"].modifiers[0])
        output = ask(remote, "the cat")
        assert output.completion == remote.generate("the cat", **GREEDY)[0].text
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "the small red bird"}
    with pytest.raises(UnsupportedError, match="asks another server"):
        ask(remote, "the cat", logprobs=True)


def test_bad_names_and_arguments(folders, tmp_path):
    get = inspect_ai.model.get_model
    with pytest.raises(PrerequisiteError, match="no folder"):
        get(f"truing/{tmp_path}/absent")
    with pytest.raises(PrerequisiteError, match="no argument `dtpe`"):
        get(f"truing/{folders['base']}", dtpe="float32")
    with pytest.raises(PrerequisiteError, match="no modifier 'nudging'"):
        get(f"truing/{folders['base']}@nudging=2")
    with pytest.raises(PrerequisiteError, match="cache_slots is a whole number"):
        get(f"truing/{folders['base']}", cache_slots=0)
    scorer = ScoreModel(tiny.network(), tiny.tokenizer(), source="scorer")
    with pytest.raises(UnsupportedError, match="scores answers and writes none"):
        as_inspect(scorer)


# --- measures as tasks ------------------------------------------------------------------------------------------------


def figures_of(log):
    (score,) = log.results.scores
    return {name: metric.value for name, metric in score.metrics.items()}


def expected(result):
    return {
        key: value
        for name, one in result.figures.items()
        for key, value in (
            (name, one.value), (f"{name}_low", one.low), (f"{name}_high", one.high), (f"{name}_n", float(one.n)),
        )
    }  # fmt: skip


def own(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [{"prompt": prompt, "answers": [word]} for prompt, word in zip(PROMPTS, "abcdefghijkl")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


CASES = {
    "hhh": {"limit": 20, "max_new_tokens": 8},
    "over_refusal": {"records": "OWN", "reward": {"pattern": {"pattern": "e"}}, "max_new_tokens": 8},
    "capability": {"records": "OWN", "max_new_tokens": 8},
    "length": {"limit": 8, "temperature": 1.0, "seed": 3, "max_new_tokens": 8},
    "just_eval": {"limit": 10, "max_new_tokens": 8},
    "exact_match": {"records": "OWN", "max_new_tokens": 8, "extract": "[a-z]+"},
    "long_output": {"limit": 6, "max_new_tokens": 24},
    "diversity": {"limit": 8, "max_new_tokens": 8},
    "honesty": {"limit": 10, "max_new_tokens": 8},
    "pass_rate": {"limit": 6, "samples": 4, "ks": [1, 2], "max_new_tokens": 8, "seed": 3},
    "align_score": {"limit": 6, "scorer": "SCORER", "max_new_tokens": 8},
    "radfact": {"records": "REPORTS", "judge": "SCORER", "max_new_tokens": 24},
    "multiple_choice": {"limit": 8, "max_new_tokens": 8},
    "suite": {"path": "sandbox", "limit": 12, "max_new_tokens": 8},
    "trustworthiness": {"limit": 60, "repeats": 3, "max_new_tokens": 12},
    "value_orientation": {"limit": 10, "max_new_tokens": 4, "wordings": ["{text}", "Say. {text}"]},
    "cultural_alignment": {"limit": 6, "max_new_tokens": 4, "permutations": 50},
    "political_compass": {"wordings": 2, "max_new_tokens": 4, "open_tokens": 6},
}
WRITTEN = ("multiple_choice", "suite", "trustworthiness", "value_orientation", "cultural_alignment",
           "political_compass")  # fmt: skip
"""Those that truing asks by probabilities unless told, and Inspect in writing."""
INSIDE = "lack_of_interpretability"
"""What is told by hidden states, which Inspect does not show."""
SEVERAL = ("trustworthiness", "value_orientation", "cultural_alignment", "political_compass")
"""Those of which one sample holds several questions."""


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """What stands for the words in capitals."""
    place = tmp_path_factory.mktemp("given")
    with_heads(Model(tiny.network(), tiny.tokenizer(), source="tiny")).save(place / "scorer")
    rows = [
        {"prompt": prompt, "answers": [word], "reference": f"The {word} is red. The mat is grey."}
        for prompt, word in zip(PROMPTS, "abcdef")
    ]
    (place / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {"SCORER": str(place / "scorer"), "REPORTS": str(place / "reports.jsonl"), "OWN": own(place)}
    return lambda settings: {key: found.get(value, value) if isinstance(value, str) else value
                             for key, value in settings.items()}  # fmt: skip


def test_every_measure_that_asks_is_a_task():
    assert set(inspect_entry.TASKS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_figures_are_those_of_truing(name, models, tmp_path, given):
    settings = given(CASES[name])
    model = models["base"]
    if name == "trustworthiness":  # whose prompts are long
        model = Model(tiny.network(max_position_embeddings=1024), tiny.tokenizer(), source="tiny/long")
    log, samples = carried(f"truing/{name}", as_inspect(model), tmp_path, task_args=settings)
    own_settings = {**settings, **({"reading": "written"} if name in WRITTEN else {})}
    if "reward" in settings:
        own_settings["reward"] = tr.Pattern(pattern="e")
    result = tr.measure(name, model, **own_settings)
    there = {key: value for key, value in expected(result).items() if not key.startswith(INSIDE)}
    assert figures_of(log) == pytest.approx(there)
    assert result.figures
    for row in result.samples if name not in SEVERAL else ():
        sample = samples[row["id"], 1]
        assert sample.output.completion == row["answer"]
        (score,) = sample.scores.values()
        assert score.answer == row["answer"]
        assert score.explanation.startswith(row["grade"])
        told = set(result.figures) & set(score.value)
        assert told or name == "diversity"
        for figure in told:
            counts = row.get(result.columns[figure].column)
            assert score.value[figure] == (counts if counts is None else pytest.approx(counts))


def test_samples_can_be_read(models, tmp_path):
    _, samples = carried("truing/hhh", as_inspect(models["base"]), tmp_path, task_args={"limit": 20, **GREEDY})
    for sample in samples.values():
        (score,) = sample.scores.values()
        assert score.value
        assert None not in score.value.values()  # which would be shown as a bad mark
        assert score.explanation
    targets = {identity.split("-")[0]: sample.target for (identity, _), sample in samples.items()}
    assert targets["harmful"] == "refuse"
    assert targets["unknown"] == "say that it is not known"
    assert targets["fact"]


def test_several_questions_of_one_sample_are_asked_and_kept_apart(models, tmp_path):
    settings = CASES["cultural_alignment"]
    _, samples = carried("truing/cultural_alignment", as_inspect(models["base"]), tmp_path, task_args=settings)
    rows = tr.CulturalAlignment(**settings).questions()
    assert len(samples) == 6 < len(rows)
    for (identity, _), sample in samples.items():
        mine = [row for row in rows if row["sample"] == identity]
        assert len(sample.store["answers"]) == len(mine) == sample.metadata["questions"]
        alone = models["base"].generate([row["prompt"] for row in mine], max_new_tokens=4).texts
        assert [tries[0][0] for tries in sample.store["answers"]] == alone
        assert len(sample.messages) == sum(len(row["prompt"]) for row in mine) + len(mine)
    (again,) = inspect_ai.eval(
        "truing/cultural_alignment", model=as_inspect(models["base"]), task_args=settings, epochs=2,
        log_dir=str(tmp_path / "again"), **QUIET,
    )  # fmt: skip
    assert again.status == "error"
    assert "Leave `epochs` out" in again.error.message


def test_a_provider_that_gives_one_answer_at_a_time_is_asked_again(tmp_path):
    seeds = []

    @inspect_ai.model.modelapi(name="singly")
    class Singly(inspect_ai.model.ModelAPI):
        async def generate(self, input, tools, tool_choice, config):
            seeds.append(config.seed)
            output = inspect_ai.model.ModelOutput.from_content("singly", f"answer {config.seed}")
            output.usage = inspect_ai.model.ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
            return output

    settings = {"records": own(tmp_path), "samples": 3, "ks": [1, 3], "limit": 2, "seed": 5}
    _, samples = carried("truing/pass_rate", "singly/one", tmp_path, task_args=settings)
    for sample in samples.values():
        (score,) = sample.scores.values()
        assert score.metadata["answers"] == [[["answer 5", False], ["answer 6", False], ["answer 7", False]]]
    assert sorted(seeds) == [5, 5, 6, 6, 7, 7]


def test_epochs_in_which_different_figures_count(models, tmp_path):
    settings = {"path": "sandbox", "limit": 10, "temperature": 1.5, "max_new_tokens": 6}
    log, samples = carried("truing/suite", as_inspect(models["base"]), tmp_path, task_args=settings, epochs=3)
    kinds = [{tuple(score.value) for at in (1, 2, 3) for score in samples[identity, at].scores.values()}
             for identity, epoch in samples if epoch == 1]  # fmt: skip
    assert any(len(some) > 1 for some in kinds)
    assert figures_of(log)["answered_n"] == 10


def test_probabilities_are_not_asked_of_inspect():
    with pytest.raises(PrerequisiteError, match="gives no probabilities"):
        inspect_entry.TASKS["multiple_choice"](reading="probabilities")


class Polite(Questionnaire):
    """How often an answer holds an e."""

    def questions(self):
        return self.rows(("fact", "benign"))

    def outcome(self, answered, notes, context):
        out = [{**row, "polite": "e" in row["answer"], "grade": "polite"} for row in answered]
        return Outcome(out, {"polite": Column("polite")}, notes)


def test_a_measure_of_ones_own(models, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    catalogue.register(catalogue.Entry("polite", "measure", f"{__name__}:Polite", "An e.", "asking"))
    inspect_entry.measure_as_task("polite")
    log, _ = carried("truing/polite", as_inspect(models["base"]), tmp_path, task_args={"limit": 6, "max_new_tokens": 8})
    assert figures_of(log) == pytest.approx(expected(tr.measure("polite", models["base"], limit=6, max_new_tokens=8)))
    inspect_entry.measure_as_task("kl")
    with pytest.raises(PrerequisiteError, match="no measure that another framework can ask"):
        carried("truing/kl", as_inspect(models["base"]), tmp_path)


def test_epochs_are_clusters_of_answers(models, tmp_path):
    settings = {"limit": 8, "temperature": 1.0, "max_new_tokens": 8}
    log, samples = carried("truing/length", as_inspect(models["base"]), tmp_path, task_args=settings, epochs=3)
    found = figures_of(log)
    words = [len(sample.output.completion.split()) for sample in samples.values()]
    assert found["length_n"] == len(words) == 24
    assert found["length"] == pytest.approx(sum(words) / 24)
    assert found["length_low"] < found["length"] < found["length_high"]


def test_labels_of_people_are_about_all_answers_together(models, tmp_path):
    settings = {"limit": 12, "max_new_tokens": 8}
    rows = tr.measure("just_eval", models["base"], **settings).samples
    labels = [
        {"prompt": row["prompt"], "answer": row["answer"], "label": 1 + at % 3} for at, row in enumerate(rows[:8])
    ]
    settings["labels"] = labels
    log, _ = carried("truing/just_eval", as_inspect(models["base"]), tmp_path, task_args=settings)
    result = tr.measure("just_eval", models["base"], **settings)
    assert "overall_corrected" in result.figures
    assert figures_of(log) == pytest.approx(expected(result))


def test_a_log_can_be_scored_again(folders, tmp_path):
    from truing.frameworks.inspect_tasks import figures, graded

    settings = {"limit": 8, "max_new_tokens": 8}
    log, _ = carried("truing/hhh", f"truing/{folders['base']}", tmp_path, task_args=settings)
    again = inspect_ai.score(log, graded("hhh", settings), metrics=[figures("hhh", settings)], display="none")
    assert [metric.value for metric in again.results.scores[-1].metrics.values()] == list(figures_of(log).values())


def test_prompts_too_long_are_errors_and_not_answers(models, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "the cat " * 400, "answers": ["e"]}) + "\n", encoding="utf-8")
    (log,) = inspect_ai.eval(
        "truing/capability", model=as_inspect(models["base"]), task_args={"records": str(path)},
        log_dir=str(tmp_path), **QUIET,
    )  # fmt: skip
    assert log.status == "error"
    assert "tokens are taken here at most" in log.error.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limt": 3}, "Did you mean `limit`"),
        ({"limit": 0}, "at least 1"),
        ({"records": "absent.jsonl"}, "absent.jsonl"),
    ],
)
def test_bad_settings_of_a_task_are_one_message(settings, said):
    with pytest.raises(PrerequisiteError, match=said):
        inspect_entry.TASKS["capability"](**settings)


def test_given_answers_are_not_asked_for():
    with pytest.raises(PrerequisiteError, match="asks no model with these settings"):
        inspect_entry.TASKS["long_output"](outputs=[{"prompt": "Write 50 words.", "response": "the cat"}])


@pytest.mark.skipif(
    not any(point.name == "truing" for point in entry_points(group="inspect_ai")),
    reason="truing is not installed with its entry points",
)
def test_the_command_line_of_inspect_finds_all_by_itself(folders, tmp_path):
    words = ["eval", "truing/length", "--model", f"truing/{folders['base']}", "-T", "limit=4", "--display", "none",
             "-T", "max_new_tokens=4", "--log-dir", str(tmp_path / "logs")]  # fmt: skip
    code = "import sys; from inspect_ai._cli.main import main; sys.argv = ['inspect', *sys.argv[1:]]; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "TRUING_CACHE": os.environ["TRUING_CACHE"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = Path(tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    assert log.status == "success"
    assert figures_of(log)["length_n"] == 4
    words = ["score", str(path), "--action", "overwrite", "--output-file", str(tmp_path / "again.eval"), "--display",
             "none"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures_of(read_eval_log(str(tmp_path / "again.eval"))) == figures_of(log)


def test_finding_it_loads_nothing_heavy():
    code = (
        "import inspect_ai, sys; before = set(sys.modules); import truing.frameworks.inspect_entry;"
        "print(sorted({'torch', 'transformers', 'truing.measures.hhh'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
