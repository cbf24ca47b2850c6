"""Which factors of a text drive preferences: people's, judges' and models' (Oh et al. 2025)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Measure, Reward, is_number, is_whole, require, require_offers, require_seed
from truing.errors import RecordError
from truing.measures import profile_report as report
from truing.measures import statistics
from truing.measures.asking import Context, check_limit, check_split, search_notes
from truing.measures.journal import identity, key_of
from truing.measures.preference import pair_scores, reward_scores
from truing.measures.profile_factors import FACTORS, factors_named
from truing.measures.profile_facts import JUDGED, judged_factors
from truing.measures.profile_generating import LEVELS, SANDBOX_LEVELS, level_groups, sampled_groups
from truing.measures.profile_pairs import GENERATED, pairs_of, ranked_pairs
from truing.measures.profile_report import HUMAN, Agent
from truing.measures.profile_scores import CORRELATIONS
from truing.measures.result import Figure, Outcome
from truing.rewards.judge import loaded

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

AGENTS = ("likelihood", *GENERATED)


class Profile(Measure):
    """Which factors of a text go with being preferred, for people, for a judge, and for a model in several roles?

    Over the pairs of an agent, C have more of a factor in the preferred response, D less, T as much; the factor's
    score is ``tau14`` = (C - D) / (C + D + T), from -1 to 1. Agents are

    - ``human``: the choices in the records, and any column ``preference_NAME`` beside ``preference``;
    - ``reward``: a reward or judge as evaluator of the same pairs;
    - ``likelihood``: the model as evaluator, by its log-probability of the two responses;
    - ``levels``: the model as generator: responses of asked quality 1 to 5, the higher preferred;
    - ``samples``: the model as generator: its own samples, the likelier preferred;
    - the same roles of the model that is compared with (``against likelihood``, …).

    The alignment of an agent is the correlation of its scores with people's over factors (Kendall's tau-b, Spearman,
    Pearson), beside its plain agreement on pairs. A score is no cause: factors go together. So there are also scores
    over pairs of like length, and a logistic regression on the differences of all factors at once, in log-odds for a
    standard deviation. Binary factors have many ties, so that their score cannot reach 1: the share of ties is
    shown. Intervals are by bootstrap over prompts; those of correlations allow for noise, which makes equal agents
    look unlike. A factor that cannot be told anywhere (one that needs a source, without sources) is left out.

    Source: Oh et al., "Uncovering Factor Level Preferences to Improve Human-Model Alignment", Findings of EMNLP 2025.

    Args:
        records: preference records, perhaps with a column ``source``; or rows with ``prompt``, ``response_1``,
            ``response_2``, ``preference`` (1, -1, 0), and perhaps ``preference_NAME`` of further agents. None for the
            sandbox's pairs.
        agents: roles of the model, of likelihood, levels, samples; empty to ask no model.
        reward: a reward or judge as an agent.
        factors: names of factors; None for all that can be told. `truing.measures.profile_factors.register_factor` adds
            one.
        judge: a model, or its name, that splits responses into facts and checks them, for the factors facts,
            hallucination, off_focus, helpfulness, source_coverage, intent, receptive and misinformation.
        levels: five or so templates from the worst quality to the best, each with ``{prompt}``; None for English ones.
        prompts: most prompts that a generator is asked.
        samples: responses to each prompt for the role ``samples``.
        normalise: divide log-probabilities by the number of tokens, so that length alone does not decide.
        near: lengths are alike that differ by at most this share of the longer one.
        temperature: of responses at the asked levels; samples have 1.
        max_new_tokens: most tokens of a response.
        retries: how often a judge's reply that cannot be read is asked for again.
        judge_tokens: most tokens of a judge's reply.
        resamples: of the bootstrap of correlations.
        limit: at most that many pairs, from the start; None for all, or 400 of the sandbox.
        split: of the sandbox's pairs.
        seed: of the sandbox's pairs, of sampling and of the bootstrap.
    """

    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    agents: Sequence[str] = ("likelihood", "levels")
    reward: Reward | None = None
    factors: Sequence[str] | None = None
    judge: AnyModel | str | None = None
    levels: Sequence[str] | None = None
    prompts: int = 60
    samples: int = 4
    normalise: bool = False
    near: float = 0.1
    temperature: float = 0.0
    max_new_tokens: int = 64
    retries: int = 2
    judge_tokens: int = 1024
    resamples: int = 300
    limit: int | None = None
    split: str = "test"
    seed: int = 0

    paper: ClassVar[int | None] = 28
    gives: ClassVar[tuple[str, ...]] = (
        "agreement of *", "* for *", "alignment of *", *(f"{name} of *" for name in CORRELATIONS),
    )  # fmt: skip
    takes_scores: ClassVar[bool] = True

    @property
    def needs_model(self) -> bool:
        """Whether a model is asked: not where it has no role."""
        return bool(self.agents)

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_limit(self.limit)
        check_split(self.split)
        require_seed(self.seed)
        for name, known in (("agents", AGENTS), ("factors", (*FACTORS, *JUDGED))):
            given = getattr(self, name)
            listed = isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given)
            require(given is None or listed, f"{name} is a list of names, not {given!r}.")
            unknown = [one for one in given or () if one not in known]
            require(not unknown, f"{name} has no `{unknown[0] if unknown else ''}`. Known: {', '.join(known)}.")
            require(len(set(given or ())) == len(given or ()), f"{name} names one twice: {given!r}.")
        require(self.factors is None or len(self.factors) > 0, "factors is a list of at least one name.")
        alone = [one for one in self.factors or () if one not in FACTORS and self.judge is None]
        require(not alone, f"The factor `{alone[0] if alone else ''}` is told by a `judge`. Give one.")
        require(
            self.judge is None or isinstance(self.judge, str) or hasattr(self.judge, "generate"),
            f"judge is a model or the name of one, not {self.judge!r}.",
        )
        for name, least in (("prompts", 2), ("samples", 2), ("max_new_tokens", 1), ("judge_tokens", 1),
                            ("resamples", 20), ("retries", 0)):  # fmt: skip
            value = getattr(self, name)
            require(is_whole(value) and value >= least, f"{name} is a number of at least {least}, not {value!r}.")
        for name in ("near", "temperature"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is a number of at least 0, not {value!r}.")
        require(
            self.levels is None
            or (isinstance(self.levels, (list, tuple)) and len(self.levels) >= 2
                and all(isinstance(one, str) and "{prompt}" in one for one in self.levels)),
            f"levels is a list of at least 2 templates, each with {{prompt}}, not {self.levels!r}.",
        )  # fmt: skip

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        self._check(model, context.against)
        pairs, choices, notes = pairs_of(self.records, self.limit, self.split, self.seed)
        numbers: dict[str, int] = {}
        for pair in pairs:
            pair["number"] = numbers.setdefault(key_of(pair["prompt"]), len(numbers))
        if self.reward is not None:
            who = identity(self.reward)
            found = reward_scores(self.reward, pairs, context, None if who is None else f"reward {who}")
            choices["reward"] = _signs(found)
        groups: dict[str, list[dict[str, Any]]] = {}
        for one, prefix in ((model, ""), (context.against, "against ")):
            if one is not None:
                self._roles(one, prefix, pairs, choices, groups, context)
                if "likelihood" in self.agents:
                    notes += search_notes("The likelihood", one)
        agents, factors, more = self._agents(pairs, choices, groups, context)
        made = report.figures_of(agents, factors, near=self.near, resamples=self.resamples, seed=self.seed)
        agreement = _agreement(choices, [pair["number"] for pair in pairs])
        rows = _rows(pairs, choices, agents[0], factors)
        figures = {**agreement, **made.figures}
        return dataclasses.replace(made, rows=rows, notes=notes + more + made.notes, figures=figures)

    def _check(self, *models: Any) -> None:
        for model in models:
            if model is None:
                continue
            scores = "scores" in model.offers
            written = [one for one in self.agents if one in GENERATED]
            if scores and written:
                raise RecordError(
                    f"{model.name} scores responses and writes none. Leave {', '.join(written)} out of `agents`."
                )
            if not scores and {"likelihood", "samples"} & set(self.agents):
                require_offers(model, {"logits"}, "`profile` with likelihood or samples among its `agents`")

    def _roles(
        self, model: Any, prefix: str, pairs: list[dict[str, Any]], choices: dict[str, Any],
        groups: dict[str, list[dict[str, Any]]], context: Context,
    ) -> None:  # fmt: skip
        asked = list({pair["number"]: pair for pair in reversed(pairs)}.values())[::-1][: self.prompts]
        for role in self.agents:
            if role == "likelihood":
                choices[prefix + role] = _signs(pair_scores(model, pairs, context, normalise=self.normalise))
            elif role == "levels":
                default = SANDBOX_LEVELS if self.records is None else LEVELS
                groups[prefix + role] = level_groups(
                    model, asked, self.levels or default, context, temperature=self.temperature,
                    max_new_tokens=self.max_new_tokens, seed=self.seed,
                )  # fmt: skip
            else:
                groups[prefix + role] = sampled_groups(
                    model, asked, self.samples, context, normalise=self.normalise,
                    max_new_tokens=self.max_new_tokens, seed=self.seed,
                )  # fmt: skip

    def _agents(
        self, pairs: list[dict[str, Any]], choices: dict[str, Any], groups: dict[str, list[dict[str, Any]]],
        context: Context,
    ) -> tuple[list[Agent], list[str], list[str]]:  # fmt: skip
        """Agents with the factor values of their pairs, people first; each text is measured once."""
        made = {name: ranked_pairs(found) for name, found in groups.items()}
        sets = {HUMAN: pairs, **made}
        texts = list(
            {
                (pair["number"], pair[side]): (pair["prompt"], pair[side], pair.get("source"))
                for found in sets.values() for pair in found for side in ("chosen", "rejected")
            }.items()
        )  # fmt: skip
        values, factors, notes = self._values([each for _, each in texts], context)
        place = {key: at for at, (key, _) in enumerate(texts)}

        def agent(name: str, found: list[dict[str, Any]], chosen: Any) -> Agent:
            one, two = ([place[pair["number"], pair[side]] for pair in found] for side in ("chosen", "rejected"))
            return Agent(name, values[one], values[two], np.asarray(chosen, dtype=np.float64),
                         np.array([pair["number"] for pair in found], dtype=np.int64))  # fmt: skip

        agents = [agent(name, pairs, chosen) for name, chosen in choices.items()]
        for name, found in made.items():
            if found:
                agents.append(agent(name, found, np.ones(len(found))))
            else:
                notes.append(f"{name} has no two different responses to any prompt, so it prefers none.")
        return agents, factors, notes

    def _values(
        self, texts: Sequence[tuple[Any, str, str | None]], context: Context
    ) -> tuple[Any, list[str], list[str]]:
        prompts, responses, sources = (
            [each[0] for each in texts],
            [each[1] for each in texts],
            [each[2] for each in texts],
        )
        notes: list[str] = []
        # Where a judge tells facts, it tells them in place of the sandbox's graders.
        judged = [name for name in JUDGED if self.judge is not None and (self.factors is None or name in self.factors)]
        names = [name for name in self.factors or FACTORS if name not in judged]
        columns = {one.name: one.values(prompts, responses, sources) for one in factors_named(names)}
        if judged:
            judge = loaded(self, self.judge)
            found, lost = judged_factors(
                judge, prompts, responses, sources, context, retries=self.retries, max_new_tokens=self.judge_tokens,
                seed=self.seed,
            )  # fmt: skip
            columns |= {name: np.array(found[name]) for name in judged}
            if lost:
                notes.append(f"{lost} of {len(responses)} responses have a reply of the judge that could not be read.")
        silent = [name for name, column in columns.items() if np.isnan(column).all()]
        same = [
            name for name, column in columns.items() if name not in silent and np.nanmin(column) == np.nanmax(column)
        ]
        for why, which in (("nothing here tells them", silent), ("all texts are equal in them", same)):
            if which:
                notes.append(f"Left out, since {why}: {', '.join(which)}.")
        kept = [name for name in columns if name not in silent and name not in same]
        if not kept:
            raise RecordError(
                f"None of the factors {', '.join(columns)} tells these texts apart. Some need a `source`, a `judge`, "
                "or questions of the sandbox; and texts that are all equal differ in none."
            )
        return np.stack([columns[name] for name in kept], axis=1), kept, notes


def _signs(scores: Sequence[Sequence[float]]) -> Any:
    return np.array([math.copysign(1.0, one - two) if one != two else 0.0 for one, two in scores])


def _agreement(choices: dict[str, Any], prompts: Sequence[int]) -> dict[str, Figure]:
    """How often each agent prefers what people prefer, where both prefer one."""
    out = {}
    for name, chosen in choices.items():
        rows = np.flatnonzero((choices[HUMAN] != 0) & (chosen != 0))
        if name != HUMAN and len(rows):
            same = (choices[HUMAN][rows] == chosen[rows]).astype(float).tolist()
            out[f"agreement of {name}"] = Figure(*statistics.share(same, [prompts[int(row)] for row in rows])[:5])
    return out


def _rows(
    pairs: list[dict[str, Any]], choices: dict[str, Any], agent: Agent, factors: Sequence[str]
) -> list[dict[str, Any]]:
    gaps = agent.first - agent.second
    return [
        {
            **{key: pair[key] for key in ("id", "kind", "prompt")}, "response_1": pair["chosen"],
            "response_2": pair["rejected"], "cluster": str(pair["number"]),
            **{f"{name} prefers": int(chosen[at]) for name, chosen in choices.items()},
            **{f"{factor}, 1 less 2": None if math.isnan(gap) else float(gap)
               for factor, gap in zip(factors, gaps[at])},
        }
        for at, pair in enumerate(pairs)
    ]  # fmt: skip
