"""Training a writer of prompts: what it moves, what it asks for and how often, and input that cannot work."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny
from tests.methods.prompting.hands import Heard
from tests.methods.rl import toy
from tests.methods.rl.test_rl_resume import Power, equal
from tests.models.server import serving
from truing import DerivedPrompt, InContextQuery, Keyword, RemoteModel, SystemMessage, load, progress
from truing.errors import ModelError, RecordError, RemoteError, RewardError, SettingsError, UnsupportedError
from truing.methods.prompting.deriving import INSTRUCTION, similarity
from truing.records import as_records
from truing.runs import find_recipe, parse, run
from truing.safe_text import filled

pytest.importorskip("trl")
QUICK = {**DerivedPrompt.quick, "reward": toy.of_length}


def echo(prompts: list) -> list[str]:
    """A responder by hand: it says what it was asked last."""
    return [one if isinstance(one, str) else one[-1]["content"] for one in prompts]


def method(**how) -> DerivedPrompt:
    return DerivedPrompt(**{**QUICK, "responder": echo, **how})


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][1:]


def bandit(seed: int = 0):
    """A writer of one word, a cue that it writes seldom, and a responder that answers well only who says it."""
    start, prompt = toy.model(seed=seed), toy.PROMPTS[0]
    with torch.no_grad():
        start.weights.lm_head.weight.mul_(6)
    before = toy.next_word(start, prompt)
    likely = [int(at) for at in before.argsort(descending=True) if 0.01 < before[at].exp() < 0.2]
    at = next(at for at in likely if start.tokenizer.decode([at], skip_special_tokens=True).strip().isalpha())
    cue = start.tokenizer.decode([at]).strip()

    def lookup(prompts):
        return ["a good answer" if one == cue else "what?" for one in prompts]

    return start, prompt, at, lookup


@pytest.mark.parametrize("baseline", ["greedy", "others"])
def test_the_probability_of_a_cue_rises_and_stays_with_a_large_beta(baseline):
    start, prompt, at, lookup = bandit()
    before = toy.next_word(start, prompt)
    free = method(
        responder=lookup, reward=Keyword(words=["good"]), baseline=baseline, n=4, max_new_tokens=1, beta=0.01,
        learning_rate=3e-4, max_steps=60, prompts_per_step=2,
    )  # fmt: skip
    rows = [{"prompt": prompt, "answers": "a"}]
    loose, held = (toy.next_word(free.clone(beta=beta).align(start, rows), prompt) for beta in (0.01, 5.0))
    kl = [float((one.exp() * (one - before)).sum()) for one in (loose, held)]
    assert before[at].exp() < 0.2 < 0.8 < loose[at].exp()
    assert abs(held[at].exp() - before[at].exp()) < 0.02
    assert kl[1] < 0.1 < 2 < kl[0]


def test_every_text_is_answered_and_scored_once(tmp_path):
    asked, scored = [], []

    def responder(prompts):
        asked.append(list(prompts))
        return [one.upper() for one in prompts]

    def reward(prompts, responses):
        scored.append(list(zip(prompts, responses)))
        return toy.of_length(prompts, responses)

    method(responder=responder, reward=reward, max_new_tokens=2, temperature=0.2, n=4, max_steps=6).align(
        toy.model(), toy.QUESTIONS, out=tmp_path
    )
    texts = [text for call in asked for text in call]
    assert len(texts) == len(set(texts)) < 6 * 2 * 5
    assert len(asked) <= 6, "all new texts of a step in one call"
    files = list((tmp_path / "responses").glob("*.jsonl"))
    kept = [json.loads(line)["value"] for file in files for line in file.read_text().splitlines()]
    held = [one for one in kept if isinstance(one, dict)]
    assert sorted(one for one in kept if isinstance(one, str)) == sorted(text.upper() for text in texts)
    assert {one["derived"] for one in held} >= set(texts)
    for one in held:
        assert one["prompt"] in toy.PROMPTS
        assert one["response"] == one["derived"].upper()
        assert one["reward"] == toy.of_length([], [one["response"]])[0]
        assert one["similarity"] == similarity(one["prompt"], one["derived"])
    # The reward reads the derived prompt, and for the log the original one with the same answers.
    derived, original = scored[0], scored[1]
    assert [answer for _, answer in derived] == [answer for _, answer in original]
    assert [prompt.upper() for prompt, _ in derived] == [answer for _, answer in derived]
    assert {prompt for prompt, _ in original} <= set(toy.PROMPTS)


@pytest.mark.parametrize("reads", ["derived", "original"])
def test_the_log_shows_drift_and_the_reward_may_read_either_prompt(reads, tmp_path):
    def share(prompts, responses):
        """Of (x, y') the letters of x; of (x', y') those of x'."""
        return [len(prompt) / 100 for prompt in prompts]

    method(reward=share, reads=reads).align(toy.model(), toy.QUESTIONS, out=tmp_path)
    other = "original_reward" if reads == "derived" else "derived_reward"
    for row in log_of(tmp_path):
        assert {"reward", "greedy_reward", "same_as_greedy", "similarity", "copies", "unusable", other} <= set(row)
        lengths = {len(prompt) / 100 for prompt in toy.PROMPTS}
        of_original = row["reward" if reads == "original" else other]
        assert min(lengths) <= of_original <= max(lengths)
    if reads == "original":
        # Then nothing that the writer does changes the reward, and nothing is learned but by the KL.
        assert all(row["no_signal"] == 1 for row in log_of(tmp_path))


def test_only_the_last_turn_of_a_conversation_is_derived():
    seen, scored = [], []
    talk = [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"}, {"role": "user", "content": "the bird?"},
    ]  # fmt: skip

    def responder(prompts):
        seen.extend(prompts)
        return ["red"] * len(prompts)

    def reward(prompts, responses):
        scored.extend(prompts)
        return [float(len(str(prompt))) for prompt in prompts]

    start = toy.model()
    made = method(responder=responder, reward=reward, instruction="rewrite: {prompt}", max_steps=1)
    made.align(start, [{"prompt": talk, "answers": "red"}])
    for prompt in seen:
        assert prompt[:3] == talk[:3]
        assert prompt[3]["role"] == "user"
    assert talk in scored
    assert any(prompt[3] != talk[3] for prompt in scored)
    assert made._request(talk) == "rewrite: the bird?"
    with pytest.raises(RecordError, match=r"Record 1: .*nothing to derive"):
        made.align(start, [{"prompt": talk[:1], "answers": "red"}])


def test_prompts_are_all_it_needs(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in toy.PROMPTS))
    assert method(max_steps=1).align(toy.model(), file).history[-1].data["rows"] == 3


def test_a_local_responder_is_asked_and_never_trained():
    start, responder = toy.model(), toy.model("qwen3", seed=7)
    before = toy.weights_of(responder)
    method(responder=responder).align(start, toy.QUESTIONS)
    assert all(torch.equal(value, before[name]) for name, value in toy.weights_of(responder).items())
    assert all(parameter.grad is None for parameter in responder.weights.parameters())


def test_the_responder_may_be_the_start_itself_and_stays_as_it_was():
    start = toy.model()
    answers = start.generate(toy.PROMPTS, max_new_tokens=6).texts
    heard = []

    def reward(prompts, responses):
        heard.extend(zip(prompts, responses))
        return toy.of_length(prompts, responses)

    method(responder=start, reward=reward, learning_rate=0.1, max_steps=3).align(start, toy.QUESTIONS)
    assert start.generate(toy.PROMPTS, max_new_tokens=6).texts == answers
    fresh = toy.model()
    derived = [(prompt, said) for prompt, said in heard if prompt not in toy.PROMPTS and prompt.strip()]
    found = fresh.generate([prompt for prompt, _ in derived], max_new_tokens=6).texts
    assert found == [said for _, said in derived]


def test_a_remote_responder_is_asked_for_what_is_new_only():
    with serving() as server:
        remote = RemoteModel("m", base_url=server.url, api_key="k", max_retries=0)
        method(responder=remote, temperature=0.3, max_new_tokens=2, max_steps=4).align(toy.model(), toy.QUESTIONS)
        asked = [body["messages"][-1]["content"] for body in server.requests]
        assert 0 < len(asked) == len(set(asked))
        assert all(body["temperature"] == 0 and body["max_tokens"] == 6 for body in server.requests)
        assert "" not in asked


def test_an_empty_text_asks_nobody():
    asked = []

    def responder(prompts):
        asked.extend(prompts)
        return ["x"] * len(prompts)

    from truing.measures.journal import Journal
    from truing.methods.prompting.derived_prompt import Responded

    scorer = Responded(method(responder=responder), lambda prompts, texts: [len(text) for text in texts], Journal(None))
    assert scorer(["a", "b", "a"], [" ", "Which b?", "Question: Which a?"]).tolist() == [0, 1, 1]
    assert asked == ["Which b?", "Which a?"]
    assert scorer.figures()["unusable"] == [1, 0, 0]
    assert scorer(["a", "a", "c"], ["a", "Yes, it is.", "word " * 401]).tolist() == [1, 1, 1]
    figures = scorer.figures()
    assert figures["copies"] == [1, 0, 0]
    assert figures["unusable"] == [0, 1, 1]
    assert figures["similarity"][0] == 1


def test_a_local_responder_without_room_for_a_text_says_nothing():
    from truing.measures.journal import Journal
    from truing.methods.prompting.derived_prompt import Responded

    scorer = Responded(
        method(responder=toy.model()), lambda prompts, texts: [len(text) for text in texts], Journal(None)
    )
    assert scorer(["a"], ["the cat " * 300]).tolist() == [0]


@pytest.mark.parametrize(("extra", "at"), [({}, 11), ({"baseline": "others", "n": 4, "adapter": "lora"}, 9)])
def test_a_training_that_was_cut_off_ends_with_the_same_bits_and_asks_nothing_again(extra, at, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    asked = []

    def responder(prompts):
        asked.extend(prompts)
        return [one.upper() for one in prompts]

    def go(out, end=0):
        calls = []

        def reward(prompts, responses):
            calls.append(1)
            if len(calls) == end:
                raise Power
            return toy.of_length(prompts, responses)

        how = {"max_steps": 6, "save_every": 2, "beta": 0.1, "max_new_tokens": 4, "temperature": 2.0}
        return method(**{**how, "reward": reward, "responder": responder, **extra}).align(
            toy.model("opt"), toy.QUESTIONS, out=out
        )

    try:
        with pytest.raises(RewardError, match="Power"):
            go(tmp_path / "killed", at)
        before = list(asked)
        newest = [place.name for place in (tmp_path / "killed" / "checkpoints").glob("checkpoint-*")]
        assert newest
        resumed = go(tmp_path / "killed")
        # Of what was answered and scored before the kill nothing is asked again.
        assert before
        assert len(asked) == len(set(asked)), "an answer is on disk before it is scored"
        assert equal(go(tmp_path / "whole"), resumed)
    finally:
        torch.set_num_threads(threads)
    logs = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in log_of(tmp_path / n)] for n in ("killed", "whole")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 6
    count = len(asked)
    go(tmp_path / "whole")
    assert len(asked) == count, "a finished training is read"


def test_the_trained_writer_writes_for_the_query():
    start, prompt, _, lookup = bandit()
    trained = method(
        responder=lookup, reward=Keyword(words=["good"]), max_new_tokens=1, beta=0.0, learning_rate=3e-3, max_steps=120,
        schedule="constant", n=4,
    ).align(start, [{"prompt": prompt, "answers": "a"}])  # fmt: skip
    query = {"instruction": "{prompt}", "max_new_tokens": 2, "how": "turns", "response_tokens": 6, "room": 16}
    from truing.methods.prompting.in_context_query import InContextQueryModifier

    held = InContextQueryModifier(writer=trained, responder=lookup, **{**query, "max_new_tokens": 1})
    # One token is all the writer writes, so its text counts as cut off, and the prompt goes on as it is.
    assert held.messages([{"role": "user", "content": prompt}]) == [{"role": "user", "content": prompt}]
    assert held.counts == {"cut off": 1}
    assert "good" in lookup([held.derivation(prompt).derived])[0]


def test_modifiers_of_the_writer_do_not_act_and_stay(tmp_path):
    spoken = SystemMessage(text="look at the mat").align(toy.model())
    aligned = method().align(spoken, toy.QUESTIONS)
    assert [type(one).__name__ for one in aligned.modifiers] == ["SystemMessageModifier"]
    assert [step.method for step in aligned.history] == ["system_message", "derived_prompt"]
    plain = method().align(toy.model(), toy.QUESTIONS)
    assert equal(plain, aligned)
    # What it was asked stands in the history.
    again = method(responder=RemoteModel("m", base_url="http://127.0.0.1:9/v1", api_key="secret"), max_steps=1)
    assert "secret" not in json.dumps(again.settings(), default=repr)


def test_a_nucleus_is_said(tmp_path):
    method(top_p=0.5, max_steps=1).align(toy.model(), toy.QUESTIONS, out=tmp_path)
    start = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert any("off-policy" in note for note in start["notes"])
    method(max_steps=1).align(toy.model(), toy.QUESTIONS, out=tmp_path / "other")
    assert json.loads((tmp_path / "other" / "log.jsonl").read_text().splitlines()[0])["notes"] == []


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        (lambda prompts, texts: [float("nan")] * len(texts), r"Step 1: The reward .*lambda.* gave nan for row 0"),
        (lambda prompts, texts: [1.0], "needs|shape"), (len, "Step 1: The reward len raised TypeError"),
    ],
)  # fmt: skip
def test_rewards_that_fail_are_named(reward, why):
    with pytest.raises(RewardError, match=why):
        method(reward=reward).align(toy.model(), toy.QUESTIONS)


def test_a_responder_that_fails_is_named():
    with pytest.raises(ModelError, match=r"The function .*lambda.* was given .* prompts, and must give"):
        method(responder=lambda prompts: ["one"]).align(toy.model(), toy.QUESTIONS)


def test_a_remote_responder_without_a_key_is_refused_before_any_work(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    asked = []
    with pytest.raises(RemoteError, match="needs a key"):
        method(responder=RemoteModel("gpt"), reward=lambda *_: asked.append(1)).align(toy.model(), toy.QUESTIONS)
    assert asked == []
    assert RemoteModel("m", base_url="http://127.0.0.1:9/v1").check_key() == ""
    assert RemoteModel("m", api_key="k").check_key() == "k"


def test_a_remote_writer_cannot_be_trained():
    remote = RemoteModel("m", base_url="http://127.0.0.1:9/v1", api_key="k")
    with pytest.raises(UnsupportedError, match=r"DerivedPrompt needs gradients, local weights.*openai/m"):
        method().align(remote, toy.QUESTIONS)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"responder": "sandbox/base"}, "Load it"), ({"baseline": "mean"}, "baseline is one of"),
        ({"reads": "both"}, "reads is one of"), ({"instruction": "x"}, "instruction"), ({"top_p": 0}, "top_p"),
        ({"baseline": "others", "n": 1}, "n is 2 or more"), ({"n": 1, "prompts_per_step": 1}, "2 texts or more"),
        ({"iterations": 2}, "iterations is 1"), ({"response_tokens": 0}, "response_tokens"),
        ({"response_temperature": -1}, "response_temperature"), ({"temperature": 0}, "at 0 all completions"),
        ({"max_words": 0}, "max_words"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(wrong, why):
    with pytest.raises(SettingsError, match=why):
        method(**wrong).align(toy.model(), toy.QUESTIONS)


def test_rewards_that_know_the_records_read_the_original():
    from truing.rewards.verifiable import Verifiable

    rows = [{"prompt": prompt, "answers": ["red"]} for prompt in toy.PROMPTS]
    made = method(responder=lambda prompts: ["red"] * len(prompts), reward=Verifiable(), reads="original")
    assert made.align(toy.model(), rows)
    scorer = made._scorer(as_records(rows, ("question",), "a test"), None)
    heard = Heard()
    with progress.listening(heard):
        assert scorer([toy.PROMPTS[0], toy.PROMPTS[1]], ["anything else"] * 2).tolist() == [1, 1]
        assert scorer([toy.PROMPTS[2]], ["anything more"]).tolist() == [1]
    assert "derived_reward" not in scorer.figures()
    assert len(heard.said) == 1
    assert "no derived_reward: Verifiable knows no right answer" in heard.said[0]


def test_recipe():
    recipe, _ = parse(find_recipe("derived-prompt")[1], "derived-prompt")
    assert [step.method for step in recipe.steps] == ["sft", "derived_prompt", "in_context_query"]
    assert recipe.steps[2].settings["writer"] == f"steps/{recipe.steps[1].name}"
    assert recipe.steps[2].start == "start"


def test_the_recipe_runs_in_small(tmp_path):
    done = run(
        "derived-prompt", out=tmp_path / "run",
        overrides=["sft.records.limit=32", "sft.epochs=1", "derived_prompt.max_steps=1", "derived_prompt.n=2",
                   "derived_prompt.prompts_per_step=2", "limit=2", "side_effects=false"],
    )  # fmt: skip
    assert {"hhh"} <= set(done.results)
    model = done.model()
    assert [step.method for step in model.history] == ["in_context_query"]
    assert model.modifiers[-1].writer.history[-1].method == "derived_prompt"


def test_the_instruction_is_the_one_of_the_query():
    assert DerivedPrompt(**{**QUICK, "responder": echo}).clone(instruction=INSTRUCTION)._request("x") == filled(
        InContextQuery(writer=echo).instruction, prompt="x"
    )


def test_it_is_saved_with_what_it_was_trained_with(tmp_path):
    aligned = method(responder=tiny_responder()).align(toy.model(), toy.QUESTIONS)
    aligned.save(tmp_path / "model")
    step = load(tmp_path / "model").history[-1]
    assert step.method == "derived_prompt"
    assert step.settings["baseline"] == "greedy"


def tiny_responder():
    from truing.models import Model

    return Model(tiny.network("qwen3", seed=7), tiny.tokenizer(), source="tiny-qwen3")
