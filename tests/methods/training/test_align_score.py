"""Training of a judge of consistency: heads, targets, exchanges, and that it learns."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from truing import AlignScore, AlignScoreTraining, load, sandbox
from truing.errors import RecordError, SettingsError, TrainingError
from truing.measures.align_score import auc
from truing.methods.training.align_score import _class_dropout, target_of
from truing.methods.training.losses.alignment import alignment_loss
from truing.models.alignment import fresh_encoder

ROW = {"prompt": "The cat sat on the mat.", "completion": "The cat sat.", "label": True}


def losses(binary: Any, three: Any, off: Any, *labels: Any) -> dict[str, float]:
    found = alignment_loss(
        torch.tensor(binary), torch.tensor(three), torch.tensor(off), torch.tensor(labels[0]), torch.tensor(labels[1]),
        torch.tensor(labels[2]),
    )  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def test_a_head_that_knows_nothing_has_loss_one() -> None:
    found = losses([[0.0, 0.0]] * 2, [[2.0] * 3] * 2, [0.0, 0.0], [1, 0], [2, 0], [1.0, -1.0])
    assert found["binary"] == pytest.approx(1)
    assert found["three_way"] == pytest.approx(1)
    assert found["regression"] == pytest.approx(1)
    assert found["total"] == pytest.approx(3)


def test_rows_without_a_label_do_not_count() -> None:
    none = losses([[1.0, 2.0]], [[1.0, 2.0, 3.0]], [4.0], [-100], [-100], [-100.0])
    assert set(none.values()) == {0.0}
    one = losses([[1.0, 2.0], [9.0, 0.0]], [[0.0] * 3] * 2, [0.0] * 2, [1, -100], [-100] * 2, [-100.0] * 2)
    assert one["total"] == pytest.approx(math.log1p(math.exp(-1)) / math.log(2))


def test_masked_tokens_count_half() -> None:
    found = alignment_loss(
        torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1), torch.tensor([-100]), torch.tensor([-100]),
        torch.tensor([-100.0]), masked_lm=torch.zeros(1, 3, 8), masked_lm_labels=torch.tensor([[5, -100, -100]]),
    )  # fmt: skip
    assert float(found["masked_lm"]) == pytest.approx(math.log(8))
    assert float(found["total"]) == pytest.approx(math.log(8) / 2)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("bin", 1)),
        ({"label": False}, ("bin", 0)),
        ({"verdict": "SUPPORTS"}, ("nli", 0)),
        ({"verdict": "not enough info"}, ("nli", 1)),
        ({"verdict": -1}, ("nli", 1)),
        ({"verdict": 2}, ("nli", 2)),
        ({"verdict": "contradiction", "head": "bin"}, ("bin", 1)),
        ({"support": 0.25}, ("reg", 0.25)),
        ({"support": 0.25, "verdict": "neutral"}, ("nli", 1)),
    ],
)
def test_the_head_that_a_row_teaches(more: dict[str, Any], expected: Any) -> None:
    assert target_of({**ROW, **more}) == expected


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"verdict": "maybe"}, "a verdict is one of aligned"),
        ({"verdict": True}, "a verdict is one of aligned"),
        ({"verdict": 3}, "a verdict is one of aligned"),
        ({"head": "reg"}, "learns a number `support`"),
        ({"head": "mlm"}, "`head` is one of bin"),
    ],
)
def test_rows_that_teach_nothing_are_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordError, match=why):
        AlignScoreTraining(epochs=1).align(load("sandbox/small"), [{**ROW, **more}])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"learning_rate": 0}, "learning_rate"), ({"epochs": 0}, "epochs"), ({"dropout": 1.0}, "dropout"),
        ({"max_length": 8}, "no room"), ({"encoder": {"depth": 3}}, "encoder has no setting"),
        ({"encoder": 3}, "encoder"),
        ({"weight_decay": -1}, "weight_decay"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        AlignScoreTraining(**settings).align(load("sandbox/small"), [ROW])


def test_exchanges_at_load_time() -> None:
    rng = random.Random(0)
    always = AlignScoreTraining(same=0.999999)
    assert always._shown(("a", "b", ("nli", 2)), rng) == ("a", "a", ("nli", 0))
    assert always._shown(("a", "b", ("bin", 0)), rng) == ("a", "b", ("bin", 0))
    swapped = AlignScoreTraining(same=0.0, swap=0.999999)
    assert swapped._shown(("a", "b", ("nli", 2)), rng) == ("b", "a", ("nli", 2))
    assert swapped._shown(("a", "b", ("nli", 0)), rng) == ("a", "b", ("nli", 0))
    rows = [AlignScoreTraining()._shown(("a", "b", ("nli", 2)), rng) for _ in range(4000)]
    assert sum(one == two for one, two, _ in rows) == pytest.approx(200, abs=60)
    assert sum(one == "b" and two == "a" for one, two, _ in rows) == pytest.approx(190, abs=60)


def test_dropout_before_the_class_heads_only() -> None:
    model = fresh_encoder(["a b c"], vocabulary=30, width=8, heads=2, max_length=16).weights
    ids = torch.tensor([[2, 5, 3]] * 64)
    plain = model.eval()(input_ids=ids).logits
    handle = _class_dropout(model, 0.5)
    model.train()
    dropped = model(input_ids=ids).logits
    handle.remove()
    assert torch.allclose(dropped[:, 5], plain[:, 5], atol=1e-6)
    assert float(dropped[:, :5].detach().std(0).min()) > 1e-4
    assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-6)


def test_a_loss_that_is_no_number_stops_it() -> None:
    model = load("sandbox/small")
    import copy

    broken = copy.deepcopy(model.weights)
    with torch.no_grad():
        broken.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="The loss is nan at step 1"):
        AlignScoreTraining(epochs=1).align(model.with_weights(broken), [ROW])


def test_a_tiny_encoder_tells_copies_from_other_sentences(tmp_path: Any) -> None:
    """The page's toy: (sentence, copy) is aligned, (sentence, another one) is not."""
    texts = sandbox.heldout_text("train", 120)
    told = [{"prompt": text, "completion": text, "label": True} for text in texts]
    told += [{"prompt": text, "completion": texts[at - 7], "label": False} for at, text in enumerate(texts)]
    train = AlignScoreTraining(
        learning_rate=3e-3, epochs=2, batch_size=16, encoder={"width": 16, "layers": 1, "heads": 2, "vocabulary": 400}
    )
    scorer = train.align(load("sandbox/small"), told, out=tmp_path)
    held = sandbox.heldout_text("test", 40)
    claims = [*held, *held[1:], held[0]]
    found = AlignScore(scorer=scorer, mode="bin").score(held * 2, claims)
    assert auc([one.score for one in found], [True] * 40 + [False] * 40) > 0.95
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 30
    again = train.align(load("sandbox/small"), told)
    assert torch.equal(again.weights.classifier.weight, scorer.weights.classifier.weight)
