from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.conformance.examples import PROMPTS, like_the_cat
from tests.conformance.examples import model as tiny_model
from truing import AnswerLength, BestOfN, Combined, Keyword, RemoteModel, SystemMessage, load
from truing.errors import RecipeError, RewardError, SettingsError
from truing.methods.decoding.best_of_n import best_of_n_kl
from truing.runs import find_recipe, parse

HOW = {"max_new_tokens": 8, "temperature": 0.9, "seed": 5}


def uniform(prompts, responses):
    """A number in [0, 1) that looks random, and is the same for the same answer."""
    return [int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12 for text in responses]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_one_candidate_is_plain_sampling(model) -> None:
    plain = model.generate(PROMPTS, **HOW, n=2)
    best = BestOfN(n=1, reward=like_the_cat).align(model).generate(PROMPTS, **HOW, n=2)
    assert [one.tokens for one in best] == [one.tokens for one in plain]
    for one, other in zip(best, plain, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-5)
        assert one.trace == {"rewards": [like_the_cat([""], [one.text])[0]], "chosen": 0}


def test_the_best_of_each_disjoint_group_is_kept(model) -> None:
    drawn = model.generate(PROMPTS, **HOW, n=12).grouped()
    best = BestOfN(n=4, reward=uniform).align(model).generate(PROMPTS, **HOW, n=3)
    for row, (candidates, kept) in enumerate(zip(drawn, best.grouped(), strict=True)):
        for at, one in enumerate(kept):
            group = [each.text for each in candidates[4 * at : 4 * at + 4]]
            rewards = uniform([], group)
            assert one.trace["rewards"] == rewards
            assert one.trace["chosen"] == int(np.argmax(rewards))
            assert one.text == group[one.trace["chosen"]]
            assert one.prompt_index == row
    # The first of several answers is the one that is given alone.
    alone = BestOfN(n=4, reward=uniform).align(model).generate(PROMPTS, **HOW)
    assert alone.texts == [kept[0].text for kept in best.grouped()]


def test_the_expected_maximum_of_a_uniform_reward(model) -> None:
    n, groups = 4, 300
    best = BestOfN(n=n, reward=uniform).align(model).generate(PROMPTS[0], max_new_tokens=8, n=groups, seed=1)
    texts = {one.text for one in best}
    assert len(texts) > 0.95 * groups  # else the rewards are not independent
    highest = np.array([max(one.trace["rewards"]) for one in best])
    error = math.sqrt(n / ((n + 1) ** 2 * (n + 2)) / groups)
    assert abs(highest.mean() - n / (n + 1)) < 4 * error
    np.testing.assert_allclose(uniform([], best.texts), highest)


def test_ties_keep_the_first(model) -> None:
    same = BestOfN(n=5, reward=lambda prompts, responses: np.ones(len(responses))).align(model)
    assert [one.trace["chosen"] for one in same.generate(PROMPTS, **HOW)] == [0, 0, 0]
    assert same.generate(PROMPTS, **HOW).texts == model.generate(PROMPTS, **HOW).texts


def test_a_batch_gives_what_single_prompts_give(model) -> None:
    best = BestOfN(n=4, reward=uniform).align(model)
    assert best.generate(PROMPTS, **HOW).texts == [best.generate([p], **HOW).texts[0] for p in PROMPTS]
    assert best.generate(PROMPTS, **HOW, batch_size=1).texts == best.generate(PROMPTS, **HOW).texts


def test_greedy_calls_sample_at_the_methods_temperature(model) -> None:
    best = BestOfN(n=4, reward=uniform, temperature=0.9).align(model)
    greedy = {**HOW, "temperature": 0.0}
    assert best.generate(PROMPTS, **greedy).texts == best.generate(PROMPTS, **HOW).texts
    assert len(set(best.generate(PROMPTS[0], **greedy)[0].trace["rewards"])) == 4


def test_the_reward_is_called_once_with_the_conversation_as_the_model_sees_it(model) -> None:
    calls = []

    def watching(prompts, responses):
        calls.append((list(prompts), list(responses)))
        return np.zeros(len(responses))

    spoken = SystemMessage(text="look").align(model)
    BestOfN(n=3, reward=watching).align(spoken).generate(["the bird?", "the cat"], max_new_tokens=4, n=2)
    assert len(calls) == 1
    prompts, responses = calls[0]
    assert len(prompts) == len(responses) == 12
    assert prompts[0] == [{"role": "system", "content": "look"}, {"role": "user", "content": "the bird?"}]
    assert prompts[11][1]["content"] == "the cat"


def test_a_reward_that_fails_is_one_error(model) -> None:
    def broken(prompts, responses):
        raise KeyError("no such thing")

    with pytest.raises(RewardError, match="broken raised KeyError over 6 answers"):
        BestOfN(n=2, reward=broken).align(model).generate(PROMPTS, max_new_tokens=4)
    nan = BestOfN(n=2, reward=lambda prompts, responses: [float("nan")] * len(responses)).align(model)
    with pytest.raises(RewardError, match="gave nan for row 0"):
        nan.generate(PROMPTS, max_new_tokens=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "at least 1"), ({"n": 2.5}, "at least 1"), ({"n": True}, "at least 1"),
        ({"temperature": 0}, "over 0"), ({"temperature": math.nan}, "over 0"),
        ({"reward": 3}, "A reward is a function"),
        ({"reward": "keywrod"}, "Did you mean `keyword`"), ({"reward": Keyword(words=[])}, "words is a list"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_found_when_aligning(model, settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BestOfN(**{"reward": like_the_cat, **settings}).align(model)


def test_rewards_by_name_and_with_settings_survive_saving(model, tmp_path) -> None:
    reward = {"combined": {"rewards": [Keyword(words=["cat"]), AnswerLength(target=3)], "weights": [1.0, 0.5]}}
    best = BestOfN(n=4, reward=reward).align(model)
    assert isinstance(best.modifiers[0].reward, Combined)
    best.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == best.modifiers
    assert [o.trace for o in again.generate(PROMPTS, **HOW)] == [o.trace for o in best.generate(PROMPTS, **HOW)]


def test_kl_bound() -> None:
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(SettingsError):
        best_of_n_kl(0)
    # A model with a few answers of known probability: best-of-n by enumeration stays under the bound.
    chances, rewards, n = [0.1, 0.2, 0.3, 0.4], [4.0, 3.0, 2.0, 1.0], 3
    best = np.zeros(4)
    for drawn in itertools.product(range(4), repeat=n):
        best[max(drawn, key=lambda at: rewards[at])] += math.prod(chances[at] for at in drawn)
    assert best.sum() == pytest.approx(1)
    kl = float((best * np.log(best / np.array(chances))).sum())
    assert 0 < kl < best_of_n_kl(n)
    # Many equally likely answers come near it.
    k = 2000
    ranks = (np.arange(1, k + 1) / k) ** n - (np.arange(k) / k) ** n
    assert float((ranks * np.log(ranks * k)).sum()) == pytest.approx(best_of_n_kl(n), abs=1e-3)


class Server(BaseHTTPRequestHandler):
    """Answers each request with as many words as its seed says."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = " ".join(["word"] * (1 + asked["seed"] % 7))
        body = {
            "id": "1", "object": "chat.completion", "created": 1, "model": asked["model"],
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words}}
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": len(words.split()), "total_tokens": 9},
        }  # fmt: skip
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args) -> None:
        return


def test_remote_models() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            remote = RemoteModel("words", base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none")
            best = BestOfN(n=5, reward=AnswerLength(target=20)).align(remote)
            answers = best.generate(PROMPTS, seed=3, n=2)
        finally:
            server.shutdown()
    assert len(answers) == 6
    for one in answers:
        assert len(one.trace["rewards"]) == 5
        assert len(one.text.split()) / 20 == pytest.approx(max(one.trace["rewards"]))
        assert len(set(one.trace["rewards"])) > 1


def test_recipes() -> None:
    recipe, _ = parse(find_recipe("best-of-n")[1], "best-of-n")
    assert recipe.steps[0].method == "best_of_n"
    text = "model: a\nsteps:\n  - best_of_n: {n: 2, reward: %s}\n"
    for reward in (
        "sandbox_grade", "{judge: {model: sandbox/base}}", "{reward_model: {model: owner/name}}",
        "{combined: {rewards: [sandbox_grade, {keyword: {words: [a]}}, {judge: {model: sandbox/base}}]}}",
        "{combined: {rewards: [{combined: {rewards: [{judge: {model: m}}]}}]}}",
    ):  # fmt: skip
        assert parse(text % reward, "r")[0].steps[0].method == "best_of_n"
    for reward, message in (
        ("{combined: {rewards: []}}", "at least one reward"),
        ("{combined: {rewards: [{keyword: {words: []}}]}}", "words is a list"),
        ("{pattern: {pattern: '('}}", "no regular expression"),
        ("{judge: {model: m, rubrik: a}}", "Did you mean `rubric`"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse(text % reward, "r")
