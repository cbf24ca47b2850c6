"""What look-ahead refuses, and what it says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests import tiny
from tests.conformance.examples import PROMPTS
from tests.methods.decoding.lookahead_parts import Bounded, model, noisy
from truing import ARGS, BestOfN, ControlledDecoding, DeAL, RemoteModel, TransferQ
from truing.errors import ModelError, RewardError, SettingsError, StackError, UnsupportedError
from truing.models import LogitsModifier


def test_a_reward_that_fails_names_itself_and_the_text():
    def broken(prompts, responses):
        if any("k" in text for text in responses):
            raise KeyError("no such thing")
        return noisy(prompts, responses)

    def nan(prompts, responses):
        return [math.nan if "k" in text else 0.0 for text in responses]

    def short(prompts, responses):
        return [0.0]

    for reward, message in (
        (broken, r"broken raised KeyError over 1 answers.*The text was '.*k"),
        (nan, r"nan gave nan for row 0, whose answer is '.*k"),
        (short, r"short gave an array of shape \[1\].*The text was"),
    ):
        with pytest.raises(RewardError, match=message):
            DeAL(reward=reward, k=4, lookahead=4, weight=2.0).align(model()).generate(PROMPTS, max_new_tokens=6)
    wrong = Bounded(lambda prompts, responses: [3.0] * len(responses))
    with pytest.raises(RewardError, match=r"Bounded declares values from 0\.0 to 1\.0 and gave 3\.0"):
        DeAL(reward=wrong, k=4, lookahead=4, weight=2.0).align(model()).generate(PROMPTS, max_new_tokens=6)


def test_scores_that_ban_every_token_are_one_error():
    class Nothing(LogitsModifier):
        def adjust(self, logits, prefixes, session):
            return torch.full_like(logits, -math.inf)

    for lookahead in (0, 3):
        with pytest.raises(ModelError, match="-inf"):
            DeAL(reward=noisy, k=2, lookahead=lookahead).align(model().with_modifier(Nothing())).generate("the cat")


@pytest.mark.parametrize(
    ("method", "settings_", "message"),
    [
        (DeAL, {"k": 0}, "k is a whole number over 0"), (DeAL, {"lookahead": -1}, "0 or more"),
        (DeAL, {"lookahead": 2.5}, "0 or more"), (DeAL, {"weight": math.nan}, "weight is a finite number"),
        (DeAL, {"weight": -1.0}, "weight is a finite number"), (DeAL, {"beam": 0}, "beam is a whole number"),
        (DeAL, {"mode": "word"}, "mode is one of token, segment"),
        (DeAL, {"mode": "segment", "lookahead": 0}, "at least one token"),
        (DeAL, {"reward": "keywrod"}, "Did you mean `keyword`"),
        (ARGS, {"weight": "much"}, "weight is a finite number"),
        (ControlledDecoding, {"alpha": 0}, "alpha divides the reward"),
        (ControlledDecoding, {"n": 3, "rollout_temperature": 0.0}, "3 greedy rollouts are all the same"),
        (TransferQ, {"beta": 0.0}, "beta is a finite number over 0"),
        (TransferQ, {"baseline_reward": noisy}, "n=4 or more"),
        (TransferQ, {"baseline_reward": noisy, "n": 4, "lookahead": 0}, "lookahead over 0"),
        (TransferQ, {"baseline_reward": "implicit", "estimate": "released"}, "known up to a constant"),
        (TransferQ, {"estimate": "best"}, "estimate is one of"),
        (TransferQ, {"rollout": "sandbox/guide"}, "`rollout` is a model"),
        (TransferQ, {"rollout_temperature": -1.0}, "rollout_temperature"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_found_when_aligning(method, settings_, message):
    needed = {"rollout": model("qwen3", 7)} if method is TransferQ else {}
    with pytest.raises(SettingsError, match=message):
        method(**{"reward": noisy, **needed, **settings_}).align(model())


def test_models_that_cannot_be_combined(caplog):
    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(UnsupportedError, match="DeAL needs logits"):
        DeAL(reward=noisy).align(remote)
    with pytest.raises(UnsupportedError, match="cannot go on from tokens"):
        TransferQ(reward=noisy, rollout=remote).align(model())
    with pytest.raises(StackError, match=r"BestOfNModifier.*rollout=model\.policy"):
        TransferQ(reward=noisy, rollout=BestOfN(n=2, reward=noisy).align(model())).align(model())
    other = dataclasses.replace(model(), tokenizer=tiny.tokenizer(300), weights=tiny.network(vocabulary=300))
    with pytest.raises(ModelError, match="different vocabularies"):
        TransferQ(reward=noisy, rollout=other).align(model())
    caplog.clear()
    with caplog.at_level("WARNING", logger="truing"):
        TransferQ(reward=noisy, rollout=model("qwen3", 7)).align(model())
        assert len(caplog.records) == 1
        assert "most of the time goes into rollouts" in caplog.records[0].getMessage()
        TransferQ(reward=noisy, rollout=model()).align(model("qwen3", 7))
        assert len(caplog.records) == 1


def test_a_beam_refuses_to_draw():
    with pytest.raises(SettingsError, match="temperature=0, or set beam=1"):
        DeAL(reward=noisy, beam=2, k=3).align(model()).generate(PROMPTS, temperature=1.0)
