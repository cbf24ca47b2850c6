"""Judges: planted biases found, win rates at equal length, intervals that hold a judge's own error, and real judges.

Sandbox figures are over seeds; each seed draws its own questions and its own verdicts. Real data are read from
``data`` under ``$TRUING_SHARED`` (or ``../shared``); a table whose data are absent says so.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import SHARED, table
from truing import sandbox
from truing.measures import statistics
from truing.measures.agreement import cohen
from truing.measures.judge_agreement import MIRROR, PAIRS, JudgeAgreement
from truing.measures.length_control import length_controlled
from truing.measures.prediction_powered import corrected_mean
from truing.measures.statistics import Estimate
from truing.rewards.functions import AnswerLength
from truing.rewards.pairwise import consistent, first_place, pair_score
from truing.rewards.sandbox_judge import SandboxJudge
from truing.sandbox.answers import dress, ideal, say
from truing.sandbox.graders import grade
from truing.sandbox.items import items
from truing.sandbox.world import world

DATA = SHARED / "data"
JUDGES: dict[str, dict[str, float]] = {
    "honest": {},
    "leans to the first place": {"position": 1.0},
    "leans to the second place": {"position": -1.0},
    "likes long answers": {"length": 1.0},
    "likes long answers and the first place": {"length": 1.0, "position": 1.0},
    "honest, more able": {"skill": 4.0},
}


def percent(found: Estimate | Any) -> str:
    """A share with its interval."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def plain(found: Estimate | Any) -> str:
    """A number with its interval."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def judges(seeds: Sequence[int], out: Path) -> str:
    """What `judge_agreement` says of made-up judges on 400 pairs of each seed, and how often it gives a false alarm."""
    head = [
        "judge",
        "accuracy, %",
        "Cohen's kappa",
        "first place, %",
        "length effect, log-odds",
        "accuracy at equal length, %",
    ]
    rows = []
    for name, planted in JUDGES.items():
        pairs = [row for seed in seeds for row in sandbox.records("preferences", "test", 400, 10 + seed)]
        judge = SandboxJudge(**{"skill": 2.0, **planted, "seed": seeds[0]})  # type: ignore[arg-type]
        figures = JudgeAgreement(judge=judge, records=pairs).measure().figures
        rows.append(
            [name, percent(figures["accuracy"]), plain(figures["cohen_kappa"]), percent(figures["first_place"]),
             plain(figures["length_effect"]), percent(figures["accuracy_at_equal_length"])]
        )  # fmt: skip
    alarms = {"honest": [0, 0], "leans to the first place": [0, 0], "likes long answers": [0, 0]}
    times = 60 * len(seeds)
    pool = sandbox.records("preferences", "test", 2000, 5)
    for at in range(times):
        drawn = random.Random(f"{seeds[0]} {at}").sample(pool, 200)
        for name, counts in alarms.items():
            judge = SandboxJudge(skill=2.0, seed=1000 * seeds[0] + at, **{**JUDGES[name]})  # type: ignore[arg-type]
            figures = JudgeAgreement(judge=judge, records=drawn, seed=at).measure().figures
            counts[0] += not figures["first_place"].low <= 0.5 <= figures["first_place"].high
            counts[1] += not figures["length_effect"].low <= 0 <= figures["length_effect"].high
    shown = [
        [name, *(percent(statistics.share([1.0] * c + [0.0] * (times - c))) for c in found)]
        for name, found in alarms.items()
    ]
    return (
        table(head, rows)
        + f"\n\nHow often an interval leaves out what an unbiased judge has, {times} draws of 200 pairs, percent:\n\n"
        + table(["judge", "first place other than 50 %", "length effect other than 0"], shown)
    )


def _sides(seed: int, n: int, better: float) -> list[tuple[str, str, str, float]]:
    """Questions with answers of two made-up models: prompt, first, second, and which is truly better (1, 0.5, 0).

    The first writes at length seven times of ten, the second three times; the first is right where the second is wrong
    with the probability ``better``, else both are right.
    """
    rng, here = random.Random(seed), world(0)
    out = []
    each = items("fact", "test", n, seed) + items("fact", "dev", n, seed)
    for item in each[:n]:
        good = ideal(here, item, rng)
        worse = say(here, item, "wrong", rng) if rng.random() < better else ideal(here, item, rng)
        texts = [
            dress(text, "verbose", rng) if rng.random() < share else text for text, share in ((good, 0.7), (worse, 0.3))
        ]
        ranks = [float(grade(item, text).helpful) for text in texts]
        out.append((item.prompt, texts[0], texts[1], 0.5 + (ranks[0] - ranks[1]) / 2))
    return out


def length_control(seeds: Sequence[int], out: Path) -> str:
    """Win rates of a wordy model before and after, by an honest judge and by one that likes length; then AlpacaEval."""
    rows = []
    for label, better in (("no better", 0.0), ("better in 40 % of questions", 0.4)):
        for name in ("honest", "likes long answers"):
            wins, longer, other, truth, keys = [], [], [], [], []
            for seed in seeds:
                sides = _sides(seed, 400, better)
                judge = SandboxJudge(**{"skill": 2.0, **JUDGES[name], "seed": seed})  # type: ignore[arg-type]
                prompts, one, two, true = (list(column) for column in zip(*sides))
                for there, back, a, b, is_true, prompt in zip(
                    judge.prefer(prompts, one, two), judge.prefer(prompts, two, one), one, two, true, prompts
                ):
                    wins.append(pair_score(there, back) or 0.0)
                    longer.append(float(len(a)))
                    other.append(float(len(b)))
                    truth.append(is_true)
                    keys.append(prompt)
            found = length_controlled(wins, longer, other, clusters=keys)
            assert found is not None
            rows.append(
                [f"wordy, {label}", name, percent(statistics.share(wins, keys)), percent(found.win_rate),
                 plain(found.effect), f"{100 * np.mean(truth):.1f}"]
            )  # fmt: skip
    text = table(["model", "judge", "win rate, %", "at equal length, %", "length effect", "true win rate, %"], rows)
    return text + "\n\n" + _alpaca()


def _alpaca() -> str:
    folder = DATA / "alpaca_eval"
    if not folder.is_dir():
        return "AlpacaEval's sample is not here, so its table is left out."
    outputs = [json.loads(line) for line in (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    models = json.loads((folder / "win_probability.json").read_text(encoding="utf-8"))["models"]
    # How hard each instruction is: the log-odds of its mean win probability over all other models.
    names = list(outputs[0]["outputs"])
    rows, ours, theirs, raws = [], [], [], []
    for name in names:
        wins = [models[name]["win_probability"][row["index"]] for row in outputs]
        rest = np.array(
            [[m["win_probability"][row["index"]] for row in outputs] for key, m in models.items() if key != name]
        )
        mean = np.clip(rest.mean(0), 1e-3, 1 - 1e-3)
        hard = np.log(mean / (1 - mean))
        lengths = [float(len(row["outputs"][name])) for row in outputs]
        found = length_controlled(wins, lengths, [2049.0] * len(lengths), difficulty=(hard - hard.mean()).tolist())
        assert found is not None
        board = models[name]["leaderboard"]
        ours.append(found.win_rate.value)
        theirs.append(board["length_controlled_winrate"])
        raws.append(board["win_rate"])
        raw = statistics.mean(wins)
        assert raw is not None
        raw = statistics.bounded(raw, (0.0, 1.0), len(wins))
        rows.append(
            [name, f"{board['avg_length']:.0f}", percent(raw), percent(found.win_rate), f"{board['win_rate']:.1f}",
             f"{board['length_controlled_winrate']:.1f}"]
        )  # fmt: skip
    return table(
        [
            "model",
            "letters",
            "win rate here, %",
            "at equal length here, %",
            "published win rate",
            "published, length-controlled",
        ],
        rows,
    )


def labels(seeds: Sequence[int], out: Path) -> str:
    """How often intervals hold the true win rate of a pool: the judge alone, labels alone, and both together."""
    rows = []
    for name in ("honest, more able", "honest", "likes long answers", "likes long answers and the first place"):
        hits, widths, worth = np.zeros(3), np.zeros(3), []
        times = 0
        for seed in seeds:
            sides = [side for at in range(8) for side in _sides(100 * seed + at, 400, 0.3)]
            judge = SandboxJudge(**{"skill": 2.0, **JUDGES[name], "seed": seed})  # type: ignore[arg-type]
            prompts, one, two, true = (list(column) for column in zip(*sides))
            said = np.array(
                [pair_score(*both) for both in zip(judge.prefer(prompts, one, two), judge.prefer(prompts, two, one))]
            )
            people, rng = np.array(true), np.random.default_rng(seed)
            for _ in range(400):
                drawn = rng.choice(len(people), 1000)
                few, rest = drawn[:100], drawn[100:]
                found = corrected_mean(people[few], said[few], said[rest], bounds=(0, 1))
                alone = statistics.share(said[drawn])
                half = 1.984 * people[few].std(ddof=1) / 10
                ends = [(alone.low, alone.high), (people[few].mean() - half, people[few].mean() + half)]
                assert found is not None
                ends.append((found.estimate.low, found.estimate.high))
                hits += [low <= people.mean() <= high for low, high in ends]
                widths += [high - low for low, high in ends]
                worth.append(found.worth)
                times += 1
        rows.append(
            [name, *(f"{100 * hit / times:.1f}" for hit in hits), *(f"{100 * width / times:.1f}" for width in widths),
             f"{np.median(worth):.2f}"]
        )  # fmt: skip
    head = [
        "judge",
        "holds: judge alone, %",
        "labels alone",
        "both",
        "width: judge alone, points",
        "labels alone",
        "both",
        "worth",
    ]
    said_of = "1,000 answers, 100 of them labelled; 400 draws a seed. `worth` is the median factor by which the judge "
    return f"{table(head, rows)}\n\n{said_of}multiplies labels."


def real_judges(seeds: Sequence[int], out: Path) -> str:
    """Three large models as judges of the harmless HH-RLHF test pairs, both orders, and length as a judge of pairs."""
    parts = []
    folder = DATA / "discretion"
    names = {"4ob": "GPT-4o", "deepseekv3": "DeepSeek-V3", "sonnet3.5": "Claude 3.5 Sonnet"}
    if folder.is_dir():
        rows = []
        for key, name in names.items():
            verdicts = _read(folder / f"hh_test_generic_{key}.csv")
            both = list(verdicts.values())
            scores = [pair_score(*pair) for pair in both]
            firsts = [value for pair in both if (value := first_place(*pair)) is not None]
            said = [PAIRS[{1.0: 0, 0.0: 1, 0.5: 2}[score]] for score in scores if score is not None]
            kappa = cohen(["chosen"] * len(said), said, PAIRS, mirror=dict(MIRROR), seed=seeds[0])
            decided = [score for score in scores if score is not None and score != 0.5]
            assert kappa is not None
            rows.append(
                [name, len(both), percent(statistics.share([s for s in scores if s is not None])),
                 percent(statistics.share(decided)), len(decided), plain(kappa), percent(statistics.mean(firsts)),
                 percent(statistics.share([float(bool(consistent(*pair))) for pair in both]))]
            )  # fmt: skip
        head = [
            "judge",
            "pairs",
            "accuracy, %",
            "where it decides, %",
            "decided",
            "Cohen's kappa",
            "first place, %",
            "consistency, %",
        ]
        parts.append(
            "Harmless HH-RLHF test pairs; a judge that finds neither answer better has said tie.\n\n"
            + table(head, rows)
        )
    file = DATA / "hh_rlhf" / "harmless_base.jsonl"
    if file.is_file():
        figures = JudgeAgreement(judge=AnswerLength(target=10_000, tolerance=10_000), records=file).measure().figures
        parts.append(
            "The longer answer wins, as a judge of 1,500 harmless HH-RLHF pairs: accuracy "
            f"{percent(figures['accuracy'])} %, Cohen's kappa {plain(figures['cohen_kappa'])}."
        )
    return "\n\n".join(parts) or "The real data are not here, so this section is left out."


def _read(path: Path) -> dict[str, tuple[str, str]]:
    """Both verdicts on each pair; the chosen answer is A in order 0, B in order 1."""
    found: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            a, b, neither = (float(row[name]) for name in ("prob_A", "prob_B", "prob_NA"))
            verdict = "tie" if neither > max(a, b) or a == b else "first" if a > b else "second"
            found.setdefault(row["row_id"], {})[row["order"]] = verdict
    return {key: (pair["0"], pair["1"]) for key, pair in found.items() if len(pair) == 2}
