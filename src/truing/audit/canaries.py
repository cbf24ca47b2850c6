"""Whether a model still gives the scores that were stored: any vector added to its hidden states moves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.audit.manifests import Manifest, check_local, named
from truing.audit.report import Finding, Report
from truing.contracts import is_whole, require

if TYPE_CHECKING:
    import torch

    from truing.models import AnyModel

LENGTH = 16  # tokens of a canary
TOP, DRAWN = 8, 24  # scores kept of each: the likeliest tokens, and others by chance
LEAST = 1e-4  # nats; what another order of summing may change in float32


def consistency(model: AnyModel, manifest: Manifest) -> Report:
    """Compare the scores after the canaries with those of the manifest.

    Raises:
        UnsupportedError: the model gives no scores, as a remote one.
    """
    check_local(model, "The comparison of scores")
    findings = [
        Finding("canary", named(manifest.canaries[at]), f"its scores are off by {off:.3g} nats")
        for at, off in enumerate(deviations(model, manifest))
        if not off <= manifest.tolerance
    ]
    return Report(tuple(findings), {"canaries": len(manifest.canaries)})


def deviations(model: Any, manifest: Manifest) -> list[float]:
    """For each canary, how far the scores that were kept are off, in nats: the largest; infinite if none can be had."""
    import torch

    vocabulary = model.weights.get_input_embeddings().weight.shape[0]
    known = [max([*one, *two], default=0) < vocabulary for one, two in zip(manifest.canaries, manifest.picked)]
    asked = [at for at, there in enumerate(known) if there]
    found = [float("inf")] * len(known)
    if asked:
        scores = _scores(model, [manifest.canaries[at] for at in asked])
        for at, row in zip(asked, scores):
            stored = torch.tensor(manifest.logprobs[at], dtype=torch.float64)
            picked = manifest.picked[at]
            if len(picked) == len(stored) and max(picked, default=0) < len(row):
                off = float((row[picked] - stored).abs().max())
                found[at] = off if off == off else float("inf")
    return found


def draw(model: Any, count: int, seed: int) -> dict[str, Any]:
    """Canaries of a model with the scores after them, as fields of a manifest."""
    import torch

    require(
        is_whole(count) and count >= 1, f"canaries is how many token sequences are drawn, at least 1, not {count!r}."
    )
    generator = torch.Generator().manual_seed(seed)
    # Ids beyond the tokenizer's are no text, and their embeddings may never have been trained.
    most = min(len(model.tokenizer), model.weights.get_input_embeddings().weight.shape[0])
    sequences = torch.randint(0, most, (count, LENGTH), generator=generator).tolist()
    scores = _scores(model, sequences)
    alone = torch.cat([_scores(model, [sequence]) for sequence in sequences])
    drawn = torch.randint(0, most, (count, DRAWN), generator=generator)
    picked = torch.cat([scores[:, :most].topk(min(TOP, most)).indices, drawn], dim=1)
    kept = scores.gather(1, picked)
    noise = float((alone.gather(1, picked) - kept).abs().max())
    return {
        "canaries": sequences, "picked": picked.tolist(), "logprobs": kept.tolist(),
        "tolerance": max(LEAST, 10 * noise),
    }  # fmt: skip


def _scores(model: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities of the next token, float64 [sequences, vocabulary], on the CPU."""
    from truing.models.engine import Engine

    return Engine(model.policy).prefill(sequences).logits.cpu().double().log_softmax(1)
