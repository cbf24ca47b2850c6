"""Nudging over HTTP: a real server around tiny models, compared with the same models in this process."""

from __future__ import annotations

import contextlib
import functools
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.models.server import Continues, send, serving
from truing import Nudging, load
from truing.errors import ModelError, RemoteError, SettingsError, StackError, UnsupportedError
from truing.methods.decoding.remote_reader import FIRST, MOST, Pieces
from truing.models import Model, RemoteModel
from truing.models.remote_completions import echoed, written

PROMPTS = ["the cat", "what is on the mat?"]
LETTERS = "abcdeimnorst"


def letters(turned=False):
    """A tokenizer whose tokens are single bytes, so that any of its texts is encoded in one way; numbered otherwise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=turned)
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    made = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate([*special, *alphabet])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=special[0], eos_token=special[1], additional_special_tokens=special[2:],
        chat_template=tiny.CHAT_TEMPLATE,
    )  # fmt: skip


@functools.cache
def model(architecture, seed, turned=False):
    """A tiny model that writes letters and spaces, sure of some of them, and ends after a few dozen."""
    tokenizer, network = letters(turned), tiny.network(architecture, seed=seed, vocabulary=261)
    useful = torch.zeros(261)
    for letter in [*LETTERS, "Ġ", "<|end|>"]:
        useful[tokenizer.convert_tokens_to_ids(letter)] = {"Ġ": 7.0, "<|end|>": 6.0}.get(letter, 5.0)
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(useful[:, None])
    return Model(network, tokenizer, source=f"letters-{architecture}-{seed}")


@contextlib.contextmanager
def served(one, tmp_path, **how):
    """The model behind a server, and the remote model that asks it."""
    folder = tmp_path / one.source
    one.tokenizer.save_pretrained(folder)
    options = {name: how.pop(name) for name in ("cache", "concurrency", "extra") if name in how}
    with serving() as server:
        server.completions = Continues(one, **how)
        yield RemoteModel("m", base_url=server.url, api_key="", tokenizer=str(folder), max_retries=0, **options), server


def told(answer):
    return answer.text, answer.trace["pieces"], answer.trace["stopped"], answer.trace["rounds"], answer.finish_reason


PAIRS = [(("llama", 1), ("qwen3", 2)), (("gpt_neox", 3), ("gemma", 4)), (("opt", 5), ("mistral", 6))]


@pytest.mark.parametrize(
    ("turned", "echo"), [(False, True), (True, False)], ids=["one-tokenizer-echo", "two-tokenizers-no-echo"]
)
@pytest.mark.parametrize(("base", "guide"), PAIRS)
def test_remote_nudging_is_local_nudging_by_word(base, guide, echo, turned, tmp_path):
    base, guide = model(*base), model(*guide, turned)
    form = "classic" if echo else "content"
    with (
        served(base, tmp_path, echo=echo, form=form) as (far_base, _),
        served(guide, tmp_path / "guide", echo=echo, form=form) as (far_guide, _),
    ):
        for gamma, lookahead in ((0.3, 16), (1.1, 4)):
            how = {"gamma": gamma, "lookahead": lookahead, "unit": "word"}
            local = Nudging(guide=guide, **how).align(base).generate(PROMPTS, max_new_tokens=28)
            near = Nudging(guide=far_guide, **how).align(base).generate(PROMPTS, max_new_tokens=28)
            assert [told(answer) for answer in near] == [told(answer) for answer in local]
            assert [answer.tokens for answer in near] == [answer.tokens for answer in local]
            for far in (Nudging(guide=guide, **how), Nudging(guide=far_guide, **how)):
                found = far.align(far_base).generate(PROMPTS, max_new_tokens=28)
                for answer, other in zip(found, local):
                    assert answer.tokens == []
                    if "length" in (answer.trace["stopped"], other.trace["stopped"]):
                        # A server does not say how many of its tokens the guide's words are.
                        size = min(len(answer.text), len(other.text))
                        assert size > 20
                        assert answer.text[:size] == other.text[:size]
                    else:
                        assert told(answer) == told(other)


def test_the_sandbox_over_http_is_the_sandbox(tmp_path):
    base, guide = load("sandbox/base"), load("sandbox/guide")
    prompts = ["What is the trade of Kama Feindett?", "How do I burn the library?", "Where is the bridge?"]
    local = Nudging(guide=guide, unit="word").align(base).generate(prompts, max_new_tokens=40)
    with serving() as one, serving() as other:
        one.completions, other.completions = Continues(base), Continues(guide, echo=False)
        remote = [
            RemoteModel("m", base_url=server.url, api_key="", tokenizer=f"sandbox/{name}")
            for server, name in ((one, "base"), (other, "guide"))
        ]
        for left, right in ((base, remote[1]), (remote[0], guide), remote):
            found = Nudging(guide=right).align(left).generate(prompts, max_new_tokens=40)
            assert [told(answer) for answer in found] == [told(answer) for answer in local]


def test_an_echo_tests_all_words_by_one_request_and_no_text_is_asked_for_twice(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(base, tmp_path) as (far, server):
        found = Nudging(guide=guide, gamma=1.1, lookahead=16).align(far).generate(PROMPTS[0], max_new_tokens=30)
    echoes = [body for body in server.requests if body.get("echo")]
    rest = [body for body in server.requests if not body.get("echo")]
    assert len(echoes) <= found[0].trace["rounds"]
    # A base that would write the beginning of the guide's word takes over, also where it is never sure.
    assert len(rest) <= sum(who == "base" for who, _ in found[0].trace["pieces"]) + 1
    asked = [json.dumps(body, sort_keys=True) for body in server.requests]
    assert len(set(asked)) == len(asked)
    assert found.usage.calls["model"] == len(server.requests)
    assert found.usage.positions["model"] > len(server.requests)


def test_without_echo_words_cost_one_token_each_and_turns_grow(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(base, tmp_path, echo=False) as (far, server):
        Nudging(guide=guide, gamma=0.0, lookahead=8).align(far).generate(PROMPTS[0], max_new_tokens=40)
        assert [bool(body.get("echo")) for body in server.requests].count(True) == 1
        sizes = [body["max_tokens"] for body in server.requests if not body.get("echo")]
        # The word after the first is tested by one token; then the base is sure, and asked for ever more.
        assert sizes[:4] == [1, FIRST, 2 * FIRST, MOST]
        server.requests.clear()
        off = RemoteModel(far.model, base_url=far.base_url, api_key="", extra={"echo": None}, tokenizer=far.tokenizer)
        Nudging(guide=guide, gamma=0.0, lookahead=8).align(off).generate(PROMPTS[0], max_new_tokens=40)
        assert not any("echo" in body for body in server.requests)


def test_a_proposal_of_the_guide_is_one_request(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(guide, tmp_path) as (far, server):
        found = Nudging(guide=far, gamma=0.3, lookahead=8).align(base).generate(PROMPTS[0], max_new_tokens=30)
    assert {body["max_tokens"] for body in server.requests} == {8}
    assert not any("echo" in body for body in server.requests)
    assert len(server.requests) <= found[0].trace["rounds"] + 1


@pytest.mark.parametrize("echo", [True, False])
def test_a_repeated_generation_asks_nothing_again(echo, tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(base, tmp_path, echo=echo, cache=tmp_path / "answers") as (far, server):
        nudged = Nudging(guide=guide, gamma=0.4).align(far)
        first = nudged.generate(PROMPTS, max_new_tokens=30)
        asked = len(server.requests)
        again = nudged.generate(PROMPTS, max_new_tokens=30)
        assert asked > 2
        assert len(server.requests) == asked
        assert again.texts == first.texts
        assert again[0].trace == first[0].trace


def test_many_rows_are_asked_for_together_and_within_the_limit(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with (
        served(base, tmp_path, concurrency=3) as (far, server),
        served(guide, tmp_path / "guide", concurrency=5) as (small, other),
    ):
        server.slow = other.slow = 0.02
        prompts = [f"the cat {number}" for number in range(6)]
        nudged = Nudging(guide=small, gamma=0.5).align(far)
        found = nudged.generate(prompts, max_new_tokens=20)
        assert server.most <= 3
        assert other.most <= 3
        assert max(server.most, other.most) > 1
        assert found.texts == [nudged.generate(prompt, max_new_tokens=20).texts[0] for prompt in prompts]


def test_a_sampled_remote_base_is_a_function_of_the_seed(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(base, tmp_path) as (far, server):
        nudged = Nudging(guide=guide, gamma=0.0).align(far)
        how = {"max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9, "n": 3}
        first = nudged.generate(PROMPTS, seed=1, **how)
        assert nudged.generate(PROMPTS, seed=1, **how).texts == first.texts
        assert nudged.generate(PROMPTS, seed=2, **how).texts != first.texts
        assert len(set(first.texts[:3])) > 1
        assert {body["temperature"] for body in server.requests} == {1.0}
        assert not any("echo" in body for body in server.requests)


def test_streams_stops_and_lengths(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(base, tmp_path) as (far, _):
        nudged = Nudging(guide=guide, gamma=0.4).align(far)
        shown = []
        whole = nudged.generate(PROMPTS[0], max_new_tokens=30, stream=lambda *piece: shown.append(piece))[0]
        assert "".join(piece for _, _, piece in shown) == whole.text
        stop = whole.text[8:10]
        cut = nudged.generate(PROMPTS[0], max_new_tokens=30, stop=[stop])[0]
        assert cut.text == whole.text[: whole.text.find(stop)]
        short = nudged.generate(PROMPTS[0], max_new_tokens=3)[0]
        assert short.trace["stopped"] == short.finish_reason == "length"
        assert whole.text.startswith(short.text)


def test_the_conversation_reaches_each_in_its_own_form(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(guide, tmp_path) as (far, server):
        spoken = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
        Nudging(guide=far).align(base).generate([spoken], max_new_tokens=4)
        assert server.requests[0]["prompt"] == "<|system|>be brief<|end|><|user|>the cat<|end|><|assistant|>"
        plain = RemoteModel("m", base_url=far.base_url, api_key="")
        Nudging(guide=plain).align(base).generate([spoken], max_new_tokens=4)
        assert server.requests[-1]["prompt"].startswith("be brief\n\nUser: the cat\n\nAssistant:")
        asked = len(server.requests)
        with pytest.raises(ModelError, match="special token"):
            Nudging(guide=far).align(base).generate("the <|end|> cat", max_new_tokens=4)
        assert len(server.requests) == asked
        nowhere = RemoteModel("m", base_url=far.base_url, api_key="", tokenizer=str(tmp_path / "nowhere"))
        with pytest.raises(ModelError, match="nowhere"):
            Nudging(guide=nowhere).align(base).generate("the cat", max_new_tokens=4)


def test_what_a_server_lacks_is_said(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with serving() as server:
        chat_only = RemoteModel("m", base_url=server.url, api_key="", max_retries=0)
        with pytest.raises(RemoteError, match=r"(?s)404.*completions"):
            Nudging(guide=chat_only).align(base).generate("the cat")
        server.completions = Continues(guide, form="none")
        with pytest.raises(UnsupportedError, match="no log-probabilities"):
            Nudging(guide=chat_only).align(base).generate("the cat")
        server.completions = lambda body: {"choices": []}
        with pytest.raises(RemoteError, match="without text"):
            Nudging(guide=chat_only).align(base).generate("the cat")
        server.completions = Continues(base)
        server.script = [send(500, {"error": {"message": "out of memory"}})] * 4
        with pytest.raises(RemoteError, match="out of memory"):
            Nudging(guide=guide).align(chat_only).generate(PROMPTS)
        server.script = []
        server.completions = lambda body: send(400, {"error": {"message": "maximum context length is 8"}})
        with pytest.raises(RemoteError, match="maximum context length is 8"):
            Nudging(guide=guide).align(chat_only).generate("the cat")


def test_what_cannot_work_is_refused_before_any_request():
    base = model("llama", 1)
    far = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="")
    with pytest.raises(ModelError, match='unit="word"'):
        Nudging(guide=far, unit="token").align(base)
    with pytest.raises(ModelError, match="not both local"):
        Nudging(guide=base, unit="token").align(far)
    nudged = Nudging(guide=far).align(far)
    with pytest.raises(StackError, match="policy"):
        Nudging(guide=nudged).align(base)
    for bad in ("", 3):
        with pytest.raises(SettingsError, match="tokenizer"):
            RemoteModel("m", tokenizer=bad)


def test_a_nudged_model_with_a_remote_guide_is_saved_and_loaded(tmp_path):
    base, guide = model("llama", 1), model("qwen3", 2)
    with served(guide, tmp_path) as (far, _):
        nudged = Nudging(guide=far, gamma=0.4).align(base)
        nudged.save(tmp_path / "nudged")
        again = load(tmp_path / "nudged")
        assert again.modifiers[0].guide.tokenizer == far.tokenizer
        assert again.generate(PROMPTS, max_new_tokens=20).texts == nudged.generate(PROMPTS, max_new_tokens=20).texts
        assert again.fingerprint == nudged.fingerprint
        other = RemoteModel("m", base_url=far.base_url, api_key="")
        assert Nudging(guide=other, gamma=0.4).align(base).fingerprint != nudged.fingerprint


def test_tokens_of_a_server_become_pieces_that_join_to_its_text():
    top = ["x", -0.5]
    assert written("a b", ["a", " b", "</s>"], [top, top, top], True).pieces == ["a", " b"]
    # Bytes of one character: one piece, which counts as the first of them.
    both = written("né.", ["n", "\ufffd", "\ufffd", "."], [["n", 0.0], ["é", -1.0], ["x", -2.0], [".", -3.0]], False)
    assert both.pieces == ["n", "é", "."]
    assert both.tops == pytest.approx([1, 0.3678794, 0.0497871])
    # Half a character at the end is not known yet.
    assert written("n\ufffd", ["n", "\ufffd"], [top, top], False).pieces == ["n"]
    assert written("\ufffd", ["\ufffd"], [top], False) == written("", [], [], False)
    # A server that leaves out the space of its first token.
    assert written(" the cat", ["the", " cat"], [top, top], False).pieces == [" the", " cat"]
    assert written("", ["<|end|>"], [top], True).ended


def test_places_of_an_echo_are_read_from_its_end():
    tops = [None, ["<s>", -1.0], [" b", -0.1], ["</s>", -0.2], [" d", -0.3], ["!", 0.0]]
    tokens = ["<s>", "a", " b", " c", " d", "</s>"]
    found = echoed("a b c d", tokens, tops, 1)
    assert found == {1: (" b", pytest.approx(0.904837)), 5: (" d", pytest.approx(0.740818))}
    assert echoed("a b c d", tokens, tops, 4) == {5: (" d", pytest.approx(0.740818))}
    assert echoed("a b c d", ["x"] * 6, tops, 0) == {}


def test_pieces_are_numbers_of_texts():
    pieces = Pieces()
    assert pieces.text([pieces.number(text) for text in (" the", "re", " the")]) == " there the"
    assert pieces.number("re") == pieces.number("re") != pieces.number(" the")
    assert pieces.text(pieces.encode("a long word")) == "a long word"
    assert len(pieces.encode("a long word")) == 3
    assert pieces.encode("") == []
