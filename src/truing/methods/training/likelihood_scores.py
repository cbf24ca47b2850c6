"""How likely other models find the answers in records: scores for PoFT, and for filters by quality."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truing import progress
from truing.contracts import require
from truing.errors import UnsupportedError
from truing.methods.training.encoding import Pair
from truing.methods.training.sft import TURNS, SFTObjective
from truing.models import Model, chat
from truing.models.core import context_length
from truing.records import Records, as_records
from truing.records.table import build, canonical

NORMALISERS = ("token", "character")
# Rows of which a killed call may lose the scores.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """What one model gives to the answers of one record.

    Args:
        logp: log-probability of all content tokens, in nats.
        tokens: how many these are, end tokens and template left out.
        characters: of the same text.
    """

    logp: float
    tokens: int
    characters: int

    def score(self, normaliser: str) -> float:
        """Mean log-likelihood: nats a token, or bits a character (negative, as the other)."""
        return self.logp / self.tokens if normaliser == "token" else self.logp / (math.log(2) * self.characters)


def score_likelihood(
    models: Sequence[Model | str],
    records: Records | Sequence[dict[str, Any]] | str | Path,
    *,
    normaliser: str = "token",
    turns: str = "all",
    max_length: int | None = None,
    out: str | Path | None = None,
) -> Records:
    """Records with how likely each model finds their answers: Fan et al. 2024, arXiv 2412.12865.

    Two columns are added: ``scores``, one length-normalised log-likelihood for each model, and ``mean_aligned_score``,
    their mean. Each model reads the conversation by its own tokenizer, chat template and modifiers. Only the text of
    the answers counts: neither the template nor end tokens. A row that is longer than a model reads has null for it,
    and no mean: nothing is cut, so that all models score the same text. A mean over tokens depends on how long a
    model's tokens are; bits a character do not.

    Args:
        models: local models, or their names.
        records: demonstrations.
        normaliser: "token" for nats a token, or "character" for bits a character; both are negative.
        turns: "all" answers of a conversation, or the "last".
        max_length: most tokens of a conversation; None for each model's own limit.
        out: a folder to keep scores in, by model and text: a killed call goes on, a second one computes nothing.

    Raises:
        SettingsError: there are no models, or a setting has no meaning.
        UnsupportedError: a model gives no log-probabilities.

    Example:
        >>> import truing as tr
        >>> from truing.methods.training.likelihood_scores import score_likelihood
        >>> scored = score_likelihood(["sandbox/guide"], "sandbox/demonstrations")
        >>> scored[0]["mean_aligned_score"] < 0
        True
    """
    require(
        isinstance(models, (list, tuple)) and len(models) > 0,
        f"models is a list of at least one model, not {models!r}.",
    )
    check_normaliser(normaliser)
    require(turns in TURNS, f"turns is one of {', '.join(TURNS)}, not {turns!r}.")
    found = as_records(records, kinds=("demonstration",), what="score_likelihood")
    reading = SFTObjective(turns)
    answers = [written(reading.examples(row)[0].answers) for row in found]
    tables = [_table(_loaded(one), answers, max_length, Path(out) if out is not None else None) for one in models]
    rows = []
    for row, cells in zip(found, zip(*tables)):
        scores = [None if cell is None else cell.score(normaliser) for cell in cells]
        row = {name: value for name, value in row.items() if name != "mean_aligned_score"}
        known = [score for score in scores if score is not None]
        mean = {"mean_aligned_score": sum(known) / len(known)} if len(known) == len(scores) else {}
        rows.append({**row, "scores": scores, **mean})
    return dataclasses.replace(found, dataset=build(rows))


def check_normaliser(value: Any) -> None:
    """Raise `SettingsError` for what is no normaliser."""
    require(value in NORMALISERS, f"normaliser is one of {', '.join(NORMALISERS)}, not {value!r}.")


def written(answers: Sequence[Pair]) -> list[Pair]:
    """The answers that have text."""
    return [(prompt, text) for prompt, text in answers if text]


def _loaded(model: Any) -> Model:
    if isinstance(model, str):
        from truing.models import load

        model = load(model)
    if "local_weights" not in getattr(model, "offers", ()):
        name = getattr(model, "name", type(model).__name__)
        raise UnsupportedError(
            f"{name} gives no log-probabilities of texts. Load local weights: a folder or a hub name."
        )
    return model


def _table(
    model: Model, answers: Sequence[list[Pair]], max_length: int | None, out: Path | None
) -> list[Likelihood | None]:
    own = context_length(model.weights)
    limit = min(max_length or own or math.inf, own or math.inf)
    path = None
    if out is not None:
        told = canonical([model.fingerprint, str(limit), list(answers)])
        path = out / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.jsonl"
    known = _kept(path)
    missing = [at for at in range(len(answers)) if at not in known]
    with progress.task(f"likelihood under {model.name}", len(answers)) as bar:
        bar.advance(len(known))
        for start in range(0, len(missing), _CHUNK):
            part = missing[start : start + _CHUNK]
            fresh = dict(zip(part, _scored(model, [answers[at] for at in part], limit)))
            _keep(path, fresh)
            known.update(fresh)
            bar.advance(len(part))
    return [known[at] for at in range(len(answers))]


def _scored(model: Model, answers: Sequence[list[Pair]], limit: float) -> list[Likelihood | None]:
    fits = [bool(pairs) and all(_length(model, *pair) <= limit for pair in pairs) for pairs in answers]
    flat = [pair for pairs, fit in zip(answers, fits) if fit for pair in pairs]
    values = iter(model.logprobs([p for p, _ in flat], [text for _, text in flat], per_token=True) if flat else [])
    out: list[Likelihood | None] = []
    for pairs, fit in zip(answers, fits):
        # The last token of an answer is its end.
        content = [next(values)[:-1] for _ in pairs] if fit else []
        tokens = sum(len(part) for part in content)
        logp = float(sum(part.sum(dtype="float64") for part in content))
        out.append(Likelihood(logp, tokens, sum(len(text) for _, text in pairs)) if tokens else None)
    return out


def _length(model: Model, prompt: Any, text: str) -> int:
    """Tokens of a conversation with its answer, its end, and a space before it."""
    start = model.encode_messages(model.conversation(prompt))
    return len(start) + len(chat.encode_plain(model.tokenizer, text)) + 2


def _kept(path: Path | None) -> dict[int, Likelihood | None]:
    out: dict[int, Likelihood | None] = {}
    if path is None or not path.is_file():
        return out
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            at, cell = json.loads(line)
        except ValueError:
            continue  # the last line of a killed call may be cut; its row is scored again
        out[at] = None if cell is None else Likelihood(*cell)
    return out


def _keep(path: Path | None, fresh: dict[int, Likelihood | None]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = {at: None if cell is None else dataclasses.astuple(cell) for at, cell in fresh.items()}
    whole = not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("" if whole else "\n")
        file.writelines(json.dumps([at, cell]) + "\n" for at, cell in cells.items())
