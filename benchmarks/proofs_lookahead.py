"""What look-ahead decoding shows on the sandbox: DeAL's goals and trade-off, and Transfer Q* against its baselines.

Learned rewards come from preference pairs of the sandbox, and answers are graded exactly besides: a reward that is
fooled shows. Settings were chosen on split ``dev``; figures are of ``test``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import truing as tr
from benchmarks.proving import table
from truing import sandbox
from truing.measures import statistics
from truing.methods.decoding.best_of_n import best_of_n_kl
from truing.sandbox import grade_question
from truing.sandbox.recognise import recognise

NEW = 28  # tokens of an answer; few that the sandbox calls ideal are longer
LOOK = {"k": 5, "lookahead": 16}
WISHES = (("gladly", "helps"), ("course", "glad"), ("story", "point"), ("sorry", "because"))
MIXES = ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0))
ALPHAS = (1.0, 0.5, 0.25)

Samples = dict[int, list[float]]
"""A value for each question, by seed."""


def shown(samples: Samples, share: bool = False) -> str:
    """The mean over all questions with its interval, and the mean of each seed."""
    values = [value for each in samples.values() for value in each]
    if not share and len(set(values)) == 1:
        return f"{values[0]:.2f}"  # a bound, or the start itself
    found = statistics.share(values) if share else statistics.mean(values)
    assert found is not None
    scale, digits = (100, 0) if share else (1, 2)
    parts = " / ".join(f"{scale * np.mean(each):.{digits}f}" for each in samples.values())
    unit = " %" if share else ""
    return (
        f"{scale * found.value:.{digits}f}{unit} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}] "
        f"({parts})"
    )


def questions(kinds: Sequence[str], count: int, seed: int, split: str) -> list[dict[str, Any]]:
    """The first ``count`` questions of each of these kinds."""
    rows = sandbox.records("questions", split, n=12 * count, seed=seed)
    return [row for kind in kinds for row in [row for row in rows if row["kind"] == kind][:count]]


def deal(seeds: Sequence[int], out: Path, split: str = "test", count: int = 20) -> str:
    """Keywords, lengths, and harmlessness with its trade-off."""
    return "\n\n".join(
        [
            "**Keywords and length.** The words of a wish are asked for together, whatever the question.",
            _constraints(seeds, split, count),
            "**Harmless against helpful.** Two learned rewards, mixed by the user's weights (harmless, helpful).",
            _trade_off(seeds, split, count),
        ]
    )


def _constraints(seeds: Sequence[int], split: str, count: int) -> str:
    base, length = tr.load("sandbox/base"), tr.AnswerLength(target=16)
    soft: dict[str, Samples] = {}
    hard: dict[str, Samples] = {}
    away: dict[str, Samples] = {}
    for seed in seeds:
        prompts = [row["prompt"] for row in questions(("fact", "benign"), count // 2, seed, split)]
        for words in WISHES:
            keyword = tr.Keyword(words=list(words))
            for name, model in _ways(base, keyword, 30.0).items():
                texts = model.generate(prompts, max_new_tokens=NEW, seed=seed).texts
                values = keyword(prompts, texts).tolist()
                soft.setdefault(name, {}).setdefault(seed, []).extend(values)
                hard.setdefault(name, {}).setdefault(seed, []).extend(float(value == 1) for value in values)
        for name, model in _ways(base, length, 30.0).items():
            texts = model.generate(prompts, max_new_tokens=NEW, seed=seed).texts
            away.setdefault(name, {})[seed] = [float(abs(len(text.split()) - 16)) for text in texts]
    rows = [[name, shown(soft[name], True), shown(hard[name], True), shown(away[name])] for name in soft]
    return table(["", "words covered", "both words", "words away from 16"], rows)


def _ways(model: Any, reward: Any, weight: float) -> dict[str, Any]:
    return {
        "greedy": model,
        "best of 8": tr.BestOfN(reward=reward, n=8).align(model),
        "DeAL": tr.DeAL(reward=reward, weight=weight, k=10, lookahead=16).align(model),
        "DeAL, no look-ahead": tr.DeAL(reward=reward, weight=weight, k=10, lookahead=0).align(model),
    }


def learned(pairs: list[dict[str, Any]], seed: int, prompts: list[Any], base: Any) -> Any:
    """A reward model from pairs, brought to where the base's answers have mean 0 and deviation 1, then to 0 to 1."""
    how = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 2}
    model = tr.RewardModelling(**how, seed=seed).align(tr.load("sandbox/small"), pairs)
    values = model(prompts, base.generate(prompts, max_new_tokens=NEW, temperature=1.0, seed=seed).texts)
    return tr.Squashed(reward=model, center=float(np.mean(values)), scale=float(np.std(values)) or 1.0)


def of_kinds(pairs: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    """The pairs whose question is of one of these kinds."""
    return [row for row in pairs if (item := recognise(row["prompt"])) is not None and item.kind in kinds]


def _trade_off(seeds: Sequence[int], split: str, count: int) -> str:
    refused: dict[str, Samples] = {}
    helped: dict[str, Samples] = {}
    base = tr.load("sandbox/base")
    for seed in seeds:
        pairs = sandbox.records("preferences", "train", n=2400, seed=seed)
        asked = questions(("harmful", "benign", "borderline"), 20, seed, "dev")
        calm = [row["prompt"] for row in asked]
        harmless = learned(of_kinds(pairs, "harmful"), seed, calm, base)
        helpful = learned(of_kinds(pairs, "benign", "borderline"), seed, calm, base)
        tuned = tr.DPO(learning_rate=3e-4, batch_size=16, beta=2.0, seed=seed).align(base, pairs[:400])

        def mixed(model: Any, weights: tuple[float, float]) -> Any:
            both = tr.Combined(rewards=[harmless, helpful], weights=list(weights))  # noqa: B023
            return tr.DeAL(reward=both, weight=10.0, **LOOK).align(model)

        ways: dict[str, Any] = {
            "base": base,
            "system line": tr.SystemMessage(text="Refuse to help with harm.").align(base),
            "best of 8, harmless": tr.BestOfN(reward=harmless, n=8).align(base),
            **{f"DeAL {weights}": mixed(base, weights) for weights in MIXES},
            "DPO": tuned,
            "DPO and DeAL (0.5, 0.5)": mixed(tuned, (0.5, 0.5)),
        }
        rows = questions(("harmful", "benign", "borderline"), count, seed, split)
        for name, model in ways.items():
            texts = model.generate([row["prompt"] for row in rows], max_new_tokens=NEW, seed=seed).texts
            grades = [grade_question(row, text) for row, text in zip(rows, texts)]
            refused.setdefault(name, {})[seed] = [float(g.wanted) for g in grades if g.kind == "harmful"]
            helped.setdefault(name, {})[seed] = [float(g.helpful) for g in grades if g.kind != "harmful"]
    head = ["", "harmful questions refused", "harmless procedures explained, courteously"]
    return table(head, [[name, shown(refused[name], True), shown(helped[name], True)] for name in refused])


def transfer_q(seeds: Sequence[int], out: Path, split: str = "test", count: int = 5) -> str:
    """Reward against KL to the base: direct and indirect transfer, ARGS, controlled decoding, DPO and best-of-N.

    Answers are drawn at temperature 1. KL in nats an answer: of the decoders exact at each step, over the candidates
    and averaged over the answers drawn; of DPO the log-ratio of what it drew; of best-of-N the bound.
    """
    base = tr.load("sandbox/base")
    gains: dict[str, Samples] = {}
    grades: dict[str, Samples] = {}
    kls: dict[str, Samples] = {}
    kinds = ("fact", "unknown", "harmful", "premise_false", "benign", "borderline")
    for seed in seeds:
        pairs = sandbox.records("preferences", "train", n=1200, seed=seed)
        calm = [row["prompt"] for row in questions(kinds, 10, seed, "dev")]
        target = learned(pairs, seed, calm, base)
        # A model aligned with the target, and one aligned with something else: courtesy alone.
        how = {"learning_rate": 3e-4, "batch_size": 16, "beta": 1.0, "seed": seed}
        right = tr.DPO(**how).align(base, pairs[:600])
        courteous = [
            {"prompt": row["prompt"], "chosen": row["positive"], "rejected": row["negative"]}
            for row in sandbox.records("contrasts", "train", n=300, seed=seed)
        ]
        other = tr.DPO(**how).align(base, courteous)
        ways = _decoders(base, right, other, lambda prompts, texts: 4.0 * target(prompts, texts))  # noqa: B023
        rows = questions(kinds, count, seed, split)
        prompts = [row["prompt"] for row in rows]
        for name, (model, kl) in ways.items():
            found = model.generate(prompts, max_new_tokens=NEW, temperature=1.0, seed=seed)
            kls.setdefault(name, {})[seed] = [kl(prompt, one) for prompt, one in zip(prompts, found)]
            gains.setdefault(name, {})[seed] = target(prompts, found.texts).tolist()
            graded = [grade_question(row, one.text) for row, one in zip(rows, found)]
            grades.setdefault(name, {})[seed] = [float(each.wanted) for each in graded]
    curve = {
        name: [np.mean([x for each in part[name].values() for x in each]) for part in (kls, gains, grades)]
        for name in gains
    }
    (out / "transfer_q.json").write_text(json.dumps(curve), encoding="utf-8")
    rows = [[name, shown(kls[name]), shown(gains[name]), shown(grades[name], True)] for name in gains]
    return table(["", "KL to the base, nats an answer", "reward", "wanted, by the exact grade"], rows)


def _decoders(base: Any, right: Any, other: Any, reward: Any) -> dict[str, tuple[Any, Callable[[Any, Any], float]]]:
    """Models by name, each with how far an answer of it says it is from the base."""

    def steps(prompt: Any, one: Any) -> float:
        total = 0.0
        for step in one.trace["steps"]:
            logs = np.array([logprob for _, logprob, _, _ in step])
            scores = np.array([score for *_, score in step])
            chances = np.exp(scores - np.logaddexp.reduce(scores))
            total += float(chances @ (scores - np.logaddexp.reduce(scores) - logs))
        return total

    def ratio(model: Any) -> Callable[[Any, Any], float]:
        def drawn(prompt: Any, one: Any) -> float:
            ids = base.encode_prompt(prompt)
            mine, its = (each._score([(ids, one.tokens)], None)[0].sum() for each in (model, base))
            return float(mine - its)

        return drawn

    look = {"reward": reward, **LOOK}
    ways: dict[str, tuple[Any, Callable[[Any, Any], float]]] = {"base": (base, lambda prompt, one: 0.0)}
    for alpha in ALPHAS:
        ways[f"ARGS, alpha {alpha}"] = (tr.ARGS(reward=reward, k=5, weight=1 / alpha).align(base), steps)
    for alpha in ALPHAS:
        ways[f"controlled decoding, alpha {alpha}"] = (tr.ControlledDecoding(**look, alpha=alpha).align(base), steps)
    for alpha in ALPHAS:
        ways[f"Transfer Q* direct, alpha {alpha}"] = (
            tr.TransferQ(**look, rollout=right, alpha=alpha).align(base),
            steps,
        )
    indirect = {"rollout": other, "n": 4, "alpha": 0.25}
    ways["rollouts of the courteous model, uncorrected, alpha 0.25"] = (
        tr.TransferQ(**look, **indirect).align(base), steps,
    )  # fmt: skip
    ways["Transfer Q* indirect, alpha 0.25"] = (
        tr.TransferQ(**look, **indirect, baseline_reward="implicit", beta=1.0).align(base), steps,
    )  # fmt: skip
    ways["DPO"] = (right, ratio(right))
    ways["DPO on courtesy"] = (other, ratio(other))
    for n in (4, 16):
        bound = best_of_n_kl(n)
        ways[f"best of {n}"] = (
            tr.BestOfN(reward=reward, n=n).align(base), lambda prompt, one, bound=bound: bound,
        )  # fmt: skip
    return ways
