"""Models of truing inside lm-evaluation-harness, against the model's own numbers and the harness' own backend."""

from __future__ import annotations

import builtins
import json
import math

import numpy as np
import pytest

from tests.cli.conftest import truing  # noqa: F401  a fixture
from tests.conformance.examples import model as tiny_model
from truing.errors import ModelError, RecordError, SettingsError, UnsupportedError
from truing.models.engine import Engine

ROWS = [
    {"q": "the cat sat on", "options": ["the mat", "a stone of course", "red"], "gold": 0},
    {"q": "what is the colour of the stone? it is", "options": ["grey", "the small red bird", "red"], "gold": 2},
    {"q": "the small red", "options": ["bird", "bird and", "cat"], "gold": 1},
]


def test_without_the_harness_the_extra_is_named(truing, monkeypatch):  # noqa: F811
    usual = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "lm_eval":
            raise ImportError(name)
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    done = truing("lm-eval", "--model", "sandbox/base", "--tasks", "mine")
    assert done.code == 2
    assert "pip install 'truing[lm-eval]'" in done.err


lm_eval = pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from truing.frameworks.lm_eval_model import TruingLM  # noqa: E402


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=each, idx=at) for at, each in enumerate(arguments)]


PAIRS = [(row["q"], " " + option) for row in ROWS for option in row["options"]]


def theirs(model):
    return HFLM(pretrained=model.weights, tokenizer=model.tokenizer, device="cpu", batch_size=2)


# --- likelihoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma", "mistral", "qwen3"])
def test_likelihoods_are_those_of_the_harness_own_backend(architecture):
    model = tiny_model(architecture)
    ours, other = TruingLM(model), theirs(model)
    texts = [("the cat sat on the mat and looked at the small red bird",), ("grey " * 300,), ("a",)]
    empty = [("", "the cat sat"), ("", "red bird")]
    for kind, requests in (("loglikelihood", PAIRS + empty), ("loglikelihood_rolling", texts)):
        found = getattr(ours, kind)(asked(kind, *requests), disable_tqdm=True)
        wanted = getattr(other, kind)(asked(kind, *requests), disable_tqdm=True)
        if kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
            found, wanted = [value for value, _ in found], [value for value, _ in wanted]
        assert found == pytest.approx(wanted, abs=2e-3, rel=1e-5)


def test_contexts_that_options_share_are_read_once(models, monkeypatch):
    read = []
    prefill = Engine.prefill
    monkeypatch.setattr(Engine, "prefill", lambda self, rows, *more: (read.extend(rows), prefill(self, rows, *more))[1])
    lm = TruingLM(models["base"])
    many = [(row["q"], f" {option} {n}") for row in ROWS for option in row["options"] for n in range(5)]
    lm.loglikelihood(asked("loglikelihood", *many), disable_tqdm=True)
    assert sorted(map(tuple, read)) == sorted({tuple(lm.tok_encode(row["q"])) for row in ROWS})


def test_many_texts_behind_one_context_go_in_portions(models, monkeypatch):
    import truing.frameworks.lm_eval_model as adapter

    lm = TruingLM(models["base"])
    requests = [("", f"the cat {n} sat") for n in range(20)]
    whole = lm.loglikelihood(asked("loglikelihood", *requests), disable_tqdm=True)
    monkeypatch.setattr(adapter, "TOGETHER", 16)
    assert [value for value, _ in lm.loglikelihood(asked("loglikelihood", *requests), disable_tqdm=True)] == (
        pytest.approx([value for value, _ in whole], abs=1e-4)
    )


@pytest.mark.parametrize("name", ["base", "plain", "steered", "told"])
def test_under_the_chat_template_they_are_those_of_logprobs(models, name):
    """With prompt modifiers and activation edits; the model's own count the end token too."""
    model = models[name]
    lm = TruingLM(model)
    contexts = [lm.apply_chat_template([{"role": "user", "content": row["q"]}]) for row in ROWS]
    pairs = [(text, option) for text, row in zip(contexts, ROWS) for option in row["options"]]
    found = lm.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    prompts = [row["q"] for row in ROWS for _ in row["options"]]
    tokens = model.logprobs(prompts, [option for _, option in pairs], per_token=True)
    assert [value for value, _ in found] == pytest.approx([values[:-1].sum() for values in tokens], abs=1e-4)


def test_greedy_is_what_generate_writes(models):
    model = models["base"]
    lm = TruingLM(model)
    answer = model.generate("the cat", max_new_tokens=6)[0]
    prompt, other = model.encode_prompt("the cat"), [*answer.tokens[:-1], answer.tokens[-1] ^ 1]
    requests = [(("", str(at)), prompt, tokens) for at, tokens in enumerate((answer.tokens, other, []))]
    (value, greedy), (_, wrong), nothing = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert greedy
    assert value == pytest.approx(sum(answer.logprobs), abs=1e-4)
    assert not wrong
    assert nothing == (0.0, True)


def test_a_conversation_of_several_turns_with_special_tokens_in_a_message(models):
    """What stands in a message is text, whatever it looks like."""
    turns = [
        {"role": "system", "content": "the stone"}, {"role": "user", "content": "what<|end|> is"},
        {"role": "assistant", "content": "grey"}, {"role": "user", "content": "the cat"},
    ]  # fmt: skip
    lm = TruingLM(models["base"])
    text = lm.apply_chat_template(turns)
    (answer,) = lm.generate_until(asked("generate_until", (text, {"until": ["\n"], "max_gen_toks": 8})), True)
    assert answer == models["base"].generate([turns], max_new_tokens=8, stop=["\n"])[0].text


def test_too_long(models, caplog):
    lm = TruingLM(models["base"])
    long = "the cat sat on the mat " * 60
    ids = lm.tok_encode(long + "red bird")
    size = len(lm.tok_encode(" red bird"))
    pair = (long.rstrip(), " red bird")
    value, _ = lm.loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)[0]
    wanted = theirs(models["base"]).loglikelihood(asked("loglikelihood", pair), disable_tqdm=True)[0][0]
    assert len(ids) > 256 > size
    assert value == pytest.approx(wanted, abs=1e-3)
    assert "1 of 1 contexts were too long" in caplog.text
    with pytest.raises(RecordError, match="leaves no room"):
        lm.loglikelihood(asked("loglikelihood", ("a", " the cat" * 300)), disable_tqdm=True)
    with pytest.raises(RecordError, match="max_gen_toks"):
        lm.generate_until(asked("generate_until", ("a", {"max_gen_toks": 300})), disable_tqdm=True)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_harness_own_backend(models):
    requests = [(row["q"], {"until": ["e", "q"], "max_gen_toks": 16, "do_sample": False}) for row in ROWS]
    requests += [(row["q"], {"until": [], "max_gen_toks": 5}) for row in ROWS]
    found = TruingLM(models["base"]).generate_until(asked("generate_until", *requests), disable_tqdm=True)
    assert found == theirs(models["base"]).generate_until(asked("generate_until", *requests), disable_tqdm=True)


def test_sampling_and_repeats(models):
    how = {"until": ["zzz"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 50}
    lm = TruingLM(models["base"], seed=4)
    text = lm.apply_chat_template([{"role": "user", "content": "the cat"}])
    other = lm.apply_chat_template([{"role": "user", "content": "a red bird"}])
    requests = asked("generate_until", (text, how), (other, how), (text, how), (text, {**how, "seed": 9}))
    found = lm.generate_until(requests, disable_tqdm=True)
    kept = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "stop": ["zzz"]}
    assert [found[0], found[2]] == models["base"].generate("the cat", n=2, seed=4, **kept).texts
    assert found[0] != found[2]
    assert found[1] == models["base"].generate("a red bird", seed=4, **kept)[0].text
    assert found[3] == models["base"].generate("the cat", seed=9, **kept)[0].text


def test_search_modifiers_write_and_have_no_likelihood(models):
    lm = TruingLM(models["best"])
    text = lm.apply_chat_template([{"role": "user", "content": "the cat"}])
    (answer,) = lm.generate_until(asked("generate_until", (text, {"until": ["zzz"], "max_gen_toks": 8})), True)
    assert answer == models["best"].generate("the cat", max_new_tokens=8, stop=["zzz"])[0].text
    for kind, arguments in (("loglikelihood", (text, "a")), ("loglikelihood_rolling", ("a cat",))):
        with pytest.raises(UnsupportedError, match="searches among answers"):
            getattr(lm, kind)(asked(kind, arguments), disable_tqdm=True)


def test_what_cannot_be_done_is_refused(models):
    told, base = TruingLM(models["told"]), TruingLM(models["base"])
    with pytest.raises(UnsupportedError, match="Add --apply_chat_template"):
        told.loglikelihood(asked("loglikelihood", ("the cat", " sat")), disable_tqdm=True)
    with pytest.raises(UnsupportedError, match="Add --apply_chat_template"):
        told.generate_until(asked("generate_until", ("the cat", {"until": ["."]})), disable_tqdm=True)
    with pytest.raises(UnsupportedError, match="no `repetition_penalty`"):
        base.generate_until(asked("generate_until", ("a", {"until": ["."], "repetition_penalty": 1.2})), True)
    with pytest.raises(SettingsError, match="cannot be read"):
        base.generate_until(asked("generate_until", ("a", {"until": ["."], "top_k": "many"})), True)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A task of each type, on a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    about = {
        "mine_choice": {
            "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{options}}",
            "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
        },
        "mine_answer": {
            "output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{options[0]}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}],
        },
        "mine_text": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    for name, one in about.items():
        whole = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test", **one,
        }  # fmt: skip
        (tmp_path / "tasks" / f"{name}.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return tmp_path / "tasks"


def results(place):
    (path,) = place.rglob("results_*.json")
    samples = {
        path.name.split("_2")[0].removeprefix("samples_"): [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in place.rglob("samples_*.jsonl")
    }
    return json.loads(path.read_text(encoding="utf-8")), samples


@pytest.mark.slow
def test_tasks_of_every_type_from_the_command_line(truing, models, folders, tasks, tmp_path):  # noqa: F811
    done = truing(
        "lm-eval", "run", "--model", f"{folders['steered']}@steering=2", "--tasks", "mine_choice,mine_answer,mine_text",
        "--include_path", tasks, "--output_path", tmp_path / "out", "--log_samples", "--apply_chat_template",
        "--model_args", "seed=7", "--batch_size", "2", "--dtype", "float32",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "mine_choice" in done.out
    found, samples = results(tmp_path / "out")
    model = models["steered"].with_strength(2.0)
    right = 0
    for row in ROWS:
        tokens = model.logprobs([row["q"]] * 3, row["options"], per_token=True)
        right += int(np.argmax([values[:-1].sum() for values in tokens])) == row["gold"]
    assert found["results"]["mine_choice"]["acc,none"] == pytest.approx(right / 3)
    answers = model.generate([row["q"] for row in ROWS], max_new_tokens=8, stop=["."]).texts
    assert [sample["filtered_resps"][0] for sample in samples["mine_answer"]] == answers
    texts = model._score(
        [([model.tokenizer.eos_token_id], model.tokenizer.encode(row["q"], add_special_tokens=False)) for row in ROWS],
        None,
    )
    words = sum(len(row["q"].split()) for row in ROWS)
    wanted = math.exp(-sum(float(values.sum()) for values in texts) / words)
    assert found["results"]["mine_text"]["word_perplexity,none"] == pytest.approx(wanted, rel=1e-4)
    assert found["config"]["model_fingerprint"] == model.fingerprint
    assert found["config"]["model_dtype"] == "float32"
    assert found["config"]["model_args"]["seed"] == 7


@pytest.mark.slow
def test_mistakes_are_one_message(truing, folders):  # noqa: F811
    nothing = truing("lm-eval", "--tasks", "mine_choice")
    assert (nothing.code, "needs --model" in nothing.err) == (2, True)
    unknown = truing("lm-eval", "--model", folders["base"], "--tasks", "absent_task")
    assert unknown.code == 2
    assert "absent_task" in unknown.err


def test_other_commands_and_help(truing):  # noqa: F811
    assert "--trust-remote-code" in truing("lm-eval", "--help").out
    own = truing("lm-eval", "run", "--help")
    assert (own.code, "--num_fewshot" in own.out) == (0, True)
    assert "subtasks" in truing("lm-eval", "ls", "--help").out


def test_names_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        TruingLM("nowhere/at/all/")
    with pytest.raises(UnsupportedError, match="lm-evaluation-harness needs"):
        TruingLM("openai/far")
