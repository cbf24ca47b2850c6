"""Models of pairs: encoding, batching, heads, the published layout, and saving."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from tests import tiny
from truing import ScoreModel, load
from truing.errors import ModelError
from truing.models import Model
from truing.models.alignment import (
    AlignmentModel,
    PairEncoder,
    cut,
    fresh_encoder,
    kin,
    matches,
    positions,
    renamed,
    with_heads,
)

TEXTS = ["the cat sat on the mat and looked at the bird", "what is the colour of the stone? it is grey, of course."]
PAIRS = [
    ("the cat sat on the mat", "the cat sat"),
    ("", "it is grey"),
    ("it is grey, of course. " * 6, "the stone is grey"),
    ("the cat sat on the mat", "the cat sat"),
    ("the bird", ""),
]


def small(**settings: Any) -> AlignmentModel:
    made = fresh_encoder(TEXTS * 5, vocabulary=80, width=16, layers=2, heads=2, max_length=64, **settings)
    with torch.no_grad():
        for weight in made.weights.parameters():
            weight.mul_(8)
    return made


def decoder() -> AlignmentModel:
    return with_heads(Model(tiny.network(), tiny.tokenizer(), source="tiny"))


@pytest.mark.parametrize(
    "make", [small, lambda: small(told_matches=False), decoder], ids=["told", "encoder", "decoder"]
)
def test_a_batch_gives_what_single_pairs_give(make: Any) -> None:
    model = make()
    together = model.pair_logits(PAIRS)
    assert together.shape == (5, 6)
    for pair, found in zip(PAIRS, together):
        np.testing.assert_allclose(model.pair_logits([pair])[0], found, atol=1e-5)
    np.testing.assert_allclose(model.pair_logits(PAIRS, batch_size=1), together, atol=1e-5)
    assert np.ptp(together[:, 2]) > 1e-3, "pairs differ"
    assert model.pair_logits([]).shape == (0, 6)


def test_equal_pairs_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    import truing.rewards.model as scoring

    plain = scoring.logits
    monkeypatch.setattr(
        scoring, "logits", lambda weights, rows, *a, **b: seen.append(len(rows)) or plain(weights, rows, *a, **b)
    )
    small().pair_logits(PAIRS * 3)
    assert seen == [4]


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [((5, 3), 8, (5, 3)), ((5, 3), 6, (3, 3)), ((5, 3), 4, (1, 3)), ((2, 9), 6, (2, 4)), ((9, 9), 6, (3, 3)),
     ((9, 8), 8, (4, 4))],
)  # fmt: skip
def test_the_context_loses_its_end_and_both_where_that_is_not_enough(
    lengths: tuple[int, int], room: int, kept: tuple[int, int]
) -> None:
    one, two = cut(list(range(lengths[0])), list(range(lengths[1])), room)
    assert (len(one), len(two)) == kept
    assert one == list(range(kept[0]))
    assert two == list(range(kept[1]))


def test_encoders_read_pairs_as_their_tokenizer_writes_them() -> None:
    model = small(told_matches=False)
    rows, types = PairEncoder(model.weights, model.tokenizer, 64)(PAIRS)
    for (one, two), row, kinds in zip(PAIRS, rows, types or [], strict=True):
        if not two:
            continue  # for transformers an empty second text is none
        wanted = model.tokenizer(one, two, return_token_type_ids=True)
        assert row == wanted["input_ids"]
        assert kinds == wanted["token_type_ids"]
    short, _ = PairEncoder(model.weights, model.tokenizer, 16)(PAIRS[:4])
    for (one, two), row in zip(PAIRS, short):
        wanted = model.tokenizer(one, two, truncation="only_first", max_length=16)["input_ids"]
        assert row == wanted


def test_decoders_read_a_question_and_its_answer() -> None:
    from truing.rewards.model import encode_answered

    model = decoder()
    rows, types = PairEncoder(model.weights, model.tokenizer)(PAIRS[:1])
    assert types is None
    assert rows[0] == encode_answered(model.tokenizer, *PAIRS[0])


def test_forms_of_a_word_are_kin() -> None:
    made = fresh_encoder(["walking walked walks talk talked !!!!! walke"], vocabulary=200, width=8, heads=2)
    groups = kin(made.tokenizer)
    of = {name: groups[at] for name, at in made.tokenizer.get_vocab().items()}
    assert of["walking"] == of["walki"] != of["walked"] == of["walke"]
    assert of["talk"] != of["talked"]
    assert of["[CLS]"] != of["[SEP]"]


def test_matches_by_hand() -> None:
    assert matches([1, 2, 3, 4], [2, 3, 9, 1]) == ([1, 1, 2, 0], [1, 2, 0, 1])
    assert matches([], [1]) == ([], [0])


@pytest.mark.parametrize("make", [small, decoder], ids=["encoder", "decoder"])
def test_saved_and_read_again(make: Any, tmp_path: Any) -> None:
    model = make()
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, AlignmentModel)
    np.testing.assert_allclose(again.pair_logits(PAIRS), model.pair_logits(PAIRS), atol=1e-6)
    assert again.weights.config.id2label[2] == "aligned"


def test_heads_on_other_bodies() -> None:
    again = with_heads(small())
    np.testing.assert_allclose(again.pair_logits(PAIRS), small().pair_logits(PAIRS), atol=1e-6)
    plain = ScoreModel(small().weights, small().tokenizer)
    body = with_heads(plain, seed=1)
    assert torch.equal(
        body.weights.bert.embeddings.word_embeddings.weight, plain.weights.bert.embeddings.word_embeddings.weight
    )
    assert not torch.equal(body.weights.classifier.weight, plain.weights.classifier.weight)


def test_a_roberta_folder_of_masked_words_is_a_backbone(tmp_path: Any) -> None:
    from transformers import RobertaForMaskedLM

    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=80, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=40, pad_token_id=1,
                           type_vocab_size=1)  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    small().tokenizer.save_pretrained(tmp_path)
    model = with_heads(load(tmp_path))
    assert type(model.weights).__name__ == "RobertaForSequenceClassification"
    assert positions(model.weights) == 38
    assert model.weights.config.is_decoder is False
    assert model.pair_logits([("the cat " * 40, "the cat")]).shape == (1, 6)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_the_published_layout_computes_the_same(kind: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    shared = {"vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 32, "max_position_embeddings": 66, "hidden_dropout_prob": 0.0}  # fmt: skip
    if kind == "roberta":
        body: Any = RobertaModel(RobertaConfig(**shared, pad_token_id=1, type_vocab_size=1)).eval()
    else:
        body = BertModel(BertConfig(**shared)).eval()
    with torch.no_grad():
        for weight in body.parameters():
            weight.mul_(6)
    heads = {name: torch.nn.Linear(16, size) for name, size in (("bin_layer", 2), ("tri_layer", 3), ("reg_layer", 1))}
    tensors = {f"base_model.{name}": value for name, value in body.state_dict().items()}
    tensors |= {f"{name}.{part}": value for name, head in heads.items() for part, value in head.state_dict().items()}
    tensors["mlm_head.bias"] = torch.zeros(80)
    body.config.save_pretrained(tmp_path)
    small().tokenizer.save_pretrained(tmp_path)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, tmp_path / "model.safetensors")

    model = load(tmp_path)
    assert isinstance(model, AlignmentModel)
    (row,), types = PairEncoder(model.weights, model.tokenizer)([PAIRS[0]])
    more = {} if types is None else {"token_type_ids": torch.tensor(types)}
    pooled = body(torch.tensor([row]), **more).pooler_output
    wanted = torch.cat([heads[name](pooled) for name in ("bin_layer", "tri_layer", "reg_layer")], 1)
    np.testing.assert_allclose(model.pair_logits([PAIRS[0]]), wanted.detach().numpy(), atol=1e-5)
    model.save(tmp_path / "plain")
    np.testing.assert_allclose(load(tmp_path / "plain").pair_logits(PAIRS), model.pair_logits(PAIRS), atol=1e-6)


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="lacks bin_layer"):
        renamed({"tri_layer.weight": torch.zeros(3, 4)}, "roberta")
    with pytest.raises(ModelError, match="RoBERTa and BERT"):
        renamed({}, "llama")
    heads = {}
    for name, size in (("bin_layer", 2), ("tri_layer", 3), ("reg_layer", 1)):
        heads |= {f"{name}.weight": torch.zeros(size, 16), f"{name}.bias": torch.zeros(size)}
    save_file(heads, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 80}))  # fmt: skip
    with pytest.raises(ModelError, match="does not fit its config"):
        load(tmp_path)
