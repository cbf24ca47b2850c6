"""varco-arena.json: brackets, ratings, and agreement with a ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.measures import ratings
from truing.measures.brackets import single_elimination

Values = dict[str, Any]


def bracket(inputs: Values, given: Values) -> Values:
    skill = inputs["skill"]
    champion, matches = single_elimination(
        inputs["order"], lambda a, b: 0.5 if skill[a] == skill[b] else float(skill[a] > skill[b])
    )
    return {"champion": champion, "matches": matches, "n_matches": len(matches)}


def fitted(inputs: Values, given: Values) -> Values:
    found = ratings.elo_ratings(
        inputs["matches"], given.get("regularisation") or 0.0, given.get("anchor"),
        given.get("anchor_rating", given.get("init", ratings.START)), scale=given.get("scale", ratings.SCALE),
        base=given.get("base", 10.0),
    )  # fmt: skip
    return {"ratings": found, "ranking": ratings.ranking(found)}


def online(inputs: Values, given: Values) -> Values:
    names, a, b, score = ratings.indexed(inputs["matches"])
    found = ratings.online_elo(
        a, b, score, len(names), given["k"], given["init"], scale=given.get("scale", ratings.SCALE),
        base=given.get("base", 10.0),
    )  # fmt: skip
    return {"ratings": dict(zip(names, found[0].tolist()))}


def agreement(inputs: Values, given: Values) -> Values:
    names = inputs["given_order_best_first"]
    places = [-place for place in range(len(names))]
    return {"spearman": float(ratings.spearman([inputs["ratings"][name] for name in names], places))}


def probability(inputs: Values, given: Values) -> Values:
    scale, base = given.get("scale", ratings.SCALE), given.get("base", 10.0)
    found = ratings.win_probability(inputs["rating_a"], inputs["rating_b"], scale, base)
    return {"p": float(ratings.judged(found, inputs.get("judge_accuracy", 1.0)))}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "single_elimination": bracket,
    "bradley_terry_elo": fitted,
    "online_elo": online,
    "spearman_with_given_ranking": agreement,
    "win_probability": probability,
    "judged_win_probability": probability,
}
