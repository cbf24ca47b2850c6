"""Nudging with two tiny models: the drafted and verified way against plain loops, and what users rely on."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.methods.decoding.nudging_parts import GAMMAS, PROMPTS, Ends, asker, expected, model, plain
from truing import Nudging, SystemMessage
from truing.errors import ModelError, SettingsError, StackError
from truing.methods.decoding import nudging_turns as turns
from truing.methods.decoding.draft_verify import Drafts
from truing.methods.decoding.nudging import NudgingModifier, _side
from truing.models import Model
from truing.models.chat import encode_continuation
from truing.models.engine import Engine
from truing.models.local import same_vocabulary
from truing.models.types import Sampling


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    seeds=st.tuples(st.integers(0, 9), st.integers(10, 19)), gamma=st.sampled_from(GAMMAS), lookahead=st.integers(1, 6)
)
def test_drafted_and_verified_equals_one_token_at_a_time(architecture, seeds, gamma, lookahead):
    base, guide = model(architecture, seeds[0]), model("qwen3", seeds[1])
    aligned = Nudging(guide=guide, gamma=gamma, lookahead=lookahead).align(base)
    found = aligned.generate(PROMPTS, max_new_tokens=20)
    for prompt, answer in zip(PROMPTS, found):
        tokens, text = expected(base, plain(base, guide, prompt, gamma, lookahead, 20))
        assert answer.tokens == tokens
        assert answer.text == text


@pytest.mark.parametrize("most", [0, 1, 5])
def test_the_length_of_drafts_changes_no_token(most, monkeypatch):
    base, guide = model("llama", 3), model("llama", 4)
    monkeypatch.setattr(Drafts, "length", lambda self: most)
    for gamma in GAMMAS:
        found = Nudging(guide=guide, gamma=gamma, lookahead=3).align(base).generate(PROMPTS, max_new_tokens=24)
        for prompt, answer in zip(PROMPTS, found):
            assert answer.tokens == expected(base, plain(base, guide, prompt, gamma, 3, 24))[0]
        by_word = Nudging(guide=guide, gamma=gamma, lookahead=3, unit="word").align(base)
        answers = by_word.generate(PROMPTS, max_new_tokens=24)
        with monkeypatch.context() as undrafted:
            undrafted.setattr(Drafts, "length", lambda self: 0)
            assert [one.tokens for one in by_word.generate(PROMPTS, max_new_tokens=24)] == [
                one.tokens for one in answers
            ]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), gamma=st.sampled_from((0, 0.1, 0.4)), heat=st.sampled_from((0.5, 1.0)))
def test_a_sampled_base_equals_one_token_at_a_time(seed, gamma, heat):
    base, guide = model("llama", seed % 5), model("qwen3", 7)
    sampling = Sampling(max_new_tokens=16, temperature=heat, top_k=20, seed=seed, n=2)
    aligned = Nudging(guide=guide, gamma=gamma, lookahead=3).align(base)
    found = aligned.generate(PROMPTS[:2], max_new_tokens=16, temperature=heat, top_k=20, seed=seed, n=2)
    for at, answer in enumerate(found):
        tokens = plain(base, guide, PROMPTS[at // 2], gamma, 3, 16, sampling, at % 2)
        assert answer.tokens == expected(base, tokens)[0]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seeds=st.tuples(st.integers(0, 9), st.integers(10, 19)), gamma=st.sampled_from(GAMMAS), lookahead=st.integers(1, 6),
    size=st.sampled_from((300, 320)), architecture=st.sampled_from(tiny.ARCHITECTURES),
)  # fmt: skip
def test_by_word_equals_one_token_at_a_time(seeds, gamma, lookahead, size, architecture):
    base, guide = model(architecture, seeds[0]), model("llama", seeds[1], size)
    aligned = Nudging(guide=guide, gamma=gamma, lookahead=lookahead, unit="word").align(base)
    found = aligned.generate(PROMPTS, max_new_tokens=20)
    engine, small = Engine(base), Engine(guide)
    for prompt, answer in zip(PROMPTS, found):
        ids, read = base.encode_prompt(prompt), guide.encode_prompt(prompt)
        one = turns.Answer(turns.Draft(engine.text, engine.ends, 20), 20)
        rule = turns.nudge_by_word(one, turns.Settings(gamma, lookahead), _side(engine, ids), _side(small, read))
        stopped = turns.answered(rule, {"base": asker(base, ids), "guide": asker(guide, read)})
        assert (answer.tokens, answer.text) == expected(base, one.tokens)
        assert answer.trace["stopped"] == stopped


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("sampled", [{}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "sampled"])
def test_a_batch_gives_what_single_prompts_give(unit, sampled):
    for gamma in (0, 0.3):
        aligned = Nudging(guide=model("qwen3", 7), gamma=gamma, unit=unit).align(model("gemma", 2))
        together = aligned.generate(PROMPTS, max_new_tokens=24, **sampled)
        alone = [aligned.generate(prompt, max_new_tokens=24, **sampled)[0] for prompt in PROMPTS]
        assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
        assert [answer.trace for answer in together] == [answer.trace for answer in alone]
        small = aligned.generate(PROMPTS, max_new_tokens=24, batch_size=1, **sampled)
        assert small.texts == together.texts
        assert small.usage.calls["model"] > together.usage.calls["model"]


def whole_or_circling(answer, greedy):
    """The greedy answer, or as much of it as there was before circles."""
    if answer.trace["stopped"] == "repeated nudging words" or len(answer.text) < len(greedy.text):
        return greedy.text.startswith(answer.text) and len(answer.tokens) > 3
    return answer.tokens == greedy.tokens


@pytest.mark.parametrize("seed", range(4))
def test_above_one_the_guide_writes_all(seed):
    base, guide = model("llama", seed), model("qwen3", seed + 10)
    found = Nudging(guide=guide, gamma=1.1).align(base).generate(PROMPTS, max_new_tokens=24)
    for answer, greedy in zip(found, guide.generate(PROMPTS, max_new_tokens=24)):
        assert whole_or_circling(answer, greedy)
        assert answer.trace["nudged_share"] == 1
        assert {who for who, _ in answer.trace["pieces"]} == {"guide"}


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_guide_that_is_the_base_gives_its_greedy_answer(unit, gamma):
    base = model("qwen3", 5)
    found = Nudging(guide=base, gamma=gamma, unit=unit).align(base).generate(PROMPTS, max_new_tokens=24)
    for answer, greedy in zip(found, base.generate(PROMPTS, max_new_tokens=24)):
        assert whole_or_circling(answer, greedy)


def test_at_zero_the_guide_writes_one_word_and_the_base_the_rest():
    base, guide = model("mistral", 1), model("qwen3", 11)
    for answer in Nudging(guide=guide, gamma=0).align(base).generate(PROMPTS, max_new_tokens=15):
        (first, word), (second, rest) = answer.trace["pieces"]
        assert (first, second) == ("guide", "base")
        assert " " not in word.strip()
        assert word + rest == answer.text


def test_the_nudged_share_falls_with_gamma_and_the_trace_adds_up():
    base, guide, shares = model("mistral", 2), model("qwen3", 12), []
    for gamma in (0, 0.2, 0.4, 1.1):
        found = Nudging(guide=guide, gamma=gamma, lookahead=4).align(base).generate(PROMPTS, max_new_tokens=24)
        shares.append(sum(answer.trace["nudged_share"] for answer in found) / len(found))
        for answer in found:
            assert "".join(text for _, text in answer.trace["pieces"]) == answer.text
            assert answer.trace["rounds"] >= 1
            assert answer.logprobs is None
    assert shares == sorted(shares)
    assert shares[0] < 0.2 < shares[-1] == 1


def test_what_it_costs_is_counted_for_both():
    base, guide = model("llama", 3), model("llama", 3)
    found = Nudging(guide=guide, gamma=1.1, lookahead=8).align(base).generate(PROMPTS[0], max_new_tokens=16)
    rounds = found[0].trace["rounds"]
    # The prompt gives the first token of each model; the guide steps once for each further token of its proposals, and
    # the base reads a whole proposal in one pass.
    assert found.usage.calls["guide"] <= 8 * (rounds + 1)
    assert found.usage.calls["model"] <= 2 + rounds
    assert found.usage.positions["guide"] >= len(guide.encode_prompt(PROMPTS[0])) + 8
    drafted = Nudging(guide=tiny_guide(), gamma=0).align(base).generate(PROMPTS[1], max_new_tokens=40)
    assert set(drafted.usage.calls) == {"model", "guide"}


def tiny_guide():
    return model("qwen3", 7)


def test_drafts_of_a_cheap_guide_that_agrees_are_long_and_else_there_are_none():
    drafts = Drafts(cost=0.05, most=16)
    assert drafts.length() >= 3
    drafts.count(200, 200)
    assert drafts.length() == 16
    drafts.count(0, 2000)
    assert drafts.length() <= 1
    assert Drafts(cost=1.0, most=16).length() == 0


def test_an_agreeing_cheap_guide_saves_passes_of_the_base(monkeypatch):
    base = model("llama", 3)
    aligned = Nudging(guide=base, gamma=0, lookahead=8).align(base)
    monkeypatch.setattr("truing.methods.decoding.nudging.parameter_count", lambda one: 1)
    plainly = aligned.generate(PROMPTS[1], max_new_tokens=33)
    monkeypatch.setattr(Drafts, "length", lambda self: 8)
    drafted = aligned.generate(PROMPTS[1], max_new_tokens=33)
    assert drafted.texts == plainly.texts
    assert drafted.usage.calls["model"] < plainly.usage.calls["model"] / 2


@pytest.mark.parametrize("unit", ["token", "word"])
def test_only_the_guide_ends_an_answer(unit):
    other, end = model("qwen3", 7), model("qwen3", 7).tokenizer.eos_token_id
    network = tiny.network("gpt_neox", seed=0)
    with torch.no_grad():
        # The last layer norm's output has no constant direction, so one is made: its bias, which only the end reads.
        network.gpt_neox.final_layer_norm.bias.fill_(1.0)
        head = network.get_output_embeddings().weight
        head.zero_()
        head[end] = 10.0
    ending = Model(network, other.tokenizer, source="ending")
    assert ending.generate("the cat", max_new_tokens=5)[0].tokens == [end]
    for answer in Nudging(guide=other, gamma=0.4, lookahead=4, unit=unit).align(ending).generate(PROMPTS):
        assert end not in answer.tokens[:-1]
        assert {who for who, _ in answer.trace["pieces"]} == {"guide"}
        assert len(answer.tokens) > 1
    for answer in Nudging(guide=ending, gamma=0.4, unit=unit).align(other).generate(PROMPTS):
        assert (answer.tokens, answer.text, answer.finish_reason) == ([end], "", "stop")
        assert answer.trace == {"pieces": [], "nudged_share": 1.0, "rounds": 1, "stopped": "guide stopped"}


def test_stop_strings_and_lengths():
    aligned = Nudging(guide=model("qwen3", 7), gamma=0.3).align(model("llama", 2))
    whole = aligned.generate(PROMPTS, max_new_tokens=24)
    for answer in whole:
        stop = answer.text.split(" ")[3]
        cut = aligned.generate(PROMPTS, max_new_tokens=24, stop=[stop])[answer.prompt_index]
        assert cut.text == answer.text[: answer.text.find(stop)]
        assert cut.finish_reason == "stop"
        assert cut.trace["stopped"] == "stop string"
        assert "".join(text for _, text in cut.trace["pieces"]) == cut.text
    for answer in aligned.generate(PROMPTS, max_new_tokens=5):
        assert len(answer.tokens) == 5
        assert (answer.finish_reason, answer.trace["stopped"]) == ("length", "length")


@pytest.mark.parametrize("unit", ["token", "word"])
def test_pieces_are_shown_as_they_become_certain(unit):
    aligned = Nudging(guide=model("qwen3", 7), gamma=0.3, unit=unit, lookahead=4).align(model("llama", 2))
    for how in ({"n": 2}, {"n": 2, "temperature": 0.7}):
        pieces = []
        watch = functools.partial(lambda to, *piece: to.append(piece), pieces)
        found = aligned.generate(PROMPTS, max_new_tokens=40, stream=watch, **how)
        assert len(pieces) > 3 * len(found)
        for at, answer in enumerate(found):
            shown = "".join(text for prompt, sample, text in pieces if (prompt, sample) == (at // 2, at % 2))
            assert shown == answer.text


def test_several_answers():
    aligned = Nudging(guide=model("qwen3", 7), gamma=0.0).align(model("llama", 2))
    same = aligned.generate(PROMPTS[:2], max_new_tokens=10, n=3)
    assert [answer.prompt_index for answer in same] == [0, 0, 0, 1, 1, 1]
    assert len(set(same.texts[:3])) == 1
    drawn = aligned.generate(PROMPTS[:2], max_new_tokens=10, n=3, temperature=1.5)
    assert len(set(drawn.texts[:3])) == 3
    assert drawn.texts[0] == aligned.generate(PROMPTS[0], max_new_tokens=10, temperature=1.5).texts[0]


def test_near_the_end_of_the_positions():
    guide = Model(tiny.network("opt", seed=3, max_position_embeddings=64), tiny.tokenizer(), source="short")
    for unit in ("token", "word"):
        for base, small in ((model("llama", 1), guide), (guide, model("llama", 1))):
            answer = Nudging(guide=small, gamma=0.1, unit=unit).align(base).generate("the cat", max_new_tokens=200)[0]
            assert answer.trace["stopped"] in ("length", "repeated nudging words", "guide stopped")
            assert len(answer.tokens) <= 256


def test_two_tokenizers_meet_in_text():
    base, guide = model("llama", 1), model("qwen3", 8, 290)
    assert not same_vocabulary(base, guide)
    assert same_vocabulary(base, model("opt", 3))
    aligned = Nudging(guide=guide, gamma=0.2).align(base)
    for answer in aligned.generate(PROMPTS, max_new_tokens=20):
        assert "".join(text for _, text in answer.trace["pieces"]) == answer.text
        assert all(token < len(base.tokenizer) for token in answer.tokens)
    with pytest.raises(ModelError, match='unit="word"'):
        Nudging(guide=guide, unit="token").align(base)


def test_text_that_continues_is_encoded_as_it_stands():
    tokenizer = tiny.tokenizer()
    for text in (" the cat", "the", "e", "\n\nthe", "né", " "):
        assert tokenizer.decode(encode_continuation(tokenizer, text)) == text


def test_the_guide_reads_the_conversation_as_the_base_does():
    base, guide = model("llama", 1), model("qwen3", 8)
    spoken = SystemMessage(text="look at the mat").align(base)
    found = Nudging(guide=guide, gamma=1.1).align(spoken).generate("the cat", max_new_tokens=8)[0]
    told = [{"role": "system", "content": "look at the mat"}, {"role": "user", "content": "the cat"}]
    assert found.tokens == guide.generate([told], max_new_tokens=8)[0].tokens
    assert (
        Nudging(guide=SystemMessage(text="a").align(guide), gamma=1.1)
        .align(base)
        .generate("the cat", max_new_tokens=8)[0]
        .tokens
        == SystemMessage(text="a").align(guide).generate("the cat", max_new_tokens=8)[0].tokens
    )


@pytest.mark.parametrize("unit", ["token", "word"])
def test_the_base_s_prompt_modifiers_end_an_answer_and_clean_it(unit):
    base, guide = model("llama", 1), model("qwen3", 8)
    plain = Nudging(guide=guide, gamma=1.1, unit=unit).align(base).generate(PROMPTS, max_new_tokens=20)
    end = " " + plain[0].text.split()[3]
    for gamma in (0.2, 1.1):
        nudged = Nudging(guide=guide, gamma=gamma, unit=unit).align(base)
        wanted = nudged.generate(PROMPTS, max_new_tokens=20, stop=[end])
        assert gamma < 1 or wanted[0].text != plain[0].text
        shown = [""] * len(PROMPTS)

        def watch(prompt, sample, piece, shown=shown):
            shown[prompt] += piece

        ended = Nudging(guide=guide, gamma=gamma, unit=unit).align(base.with_modifier(Ends(end=end)))
        found = ended.generate(PROMPTS, max_new_tokens=20, stream=watch)
        assert found.texts == [text.strip() for text in wanted.texts] == shown
        assert any(text != text.strip() for text in wanted.texts)
        assert [answer.trace["stopped"] for answer in found] == [answer.trace["stopped"] for answer in wanted]
        for answer in found:
            assert "".join(text for _, text in answer.trace["pieces"]) == answer.text


def test_bad_settings_and_models_are_one_clear_error():
    base, guide = model("llama", 1), model("qwen3", 8)
    for bad in ({"gamma": -0.1}, {"gamma": "a"}, {"gamma": float("nan")}, {"lookahead": 0}, {"lookahead": 1.5}):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            Nudging(guide=guide, **bad).align(base)
    with pytest.raises(SettingsError, match="unit"):
        Nudging(guide=guide, unit="letter").align(base)
    with pytest.raises(SettingsError, match=r"truing\.load"):
        Nudging(guide="sandbox/guide").align(base)
    nudged = Nudging(guide=guide).align(base)
    with pytest.raises(StackError, match=r"guide\.policy"):
        Nudging(guide=nudged).align(base)
    with pytest.raises(StackError, match="Nudging"):
        Nudging(guide=guide).align(nudged)
    assert Nudging(guide=guide).align(nudged.policy).modifiers == (NudgingModifier(guide=guide),)


def test_a_batch_that_is_cut_and_extended_in_one_pass():
    engine = Engine(model("gemma", 3))
    rows = [engine.model.encode_prompt(prompt) for prompt in PROMPTS]
    one, other = engine.prefill(rows), engine.prefill(rows)
    for batch in (one, other):
        batch.extend([[5, 6, 7], [8], [9, 10]])
        batch.append([11, 12, 13])
    keep = [len(rows[0]) + 1, len(rows[1]) + 2, len(rows[2])]
    blocks = [[20, 21], [], [22]]
    before = engine.usage.calls["model"]
    found = one.extend(blocks, keep=keep)
    assert engine.usage.calls["model"] == before + 1
    other.rollback(keep)
    wanted = other.extend(blocks)
    assert one.tokens == other.tokens
    for left, right in zip([*found, one.logits], [*wanted, other.logits]):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-4)
    # What stood before the cut was not kept, so going back to there runs a token again.
    one.rollback([len(rows[0]) + 1, len(rows[1]) + 2, len(rows[2])])
    torch.testing.assert_close(one.logits[0], engine.prefill([one.tokens[0]]).logits[0], rtol=0, atol=1e-4)
    with pytest.raises(SettingsError, match="rollback"):
        one.extend([[], [1], [1]], keep=[2, 2, 2])
