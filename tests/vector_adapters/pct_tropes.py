"""pct-tropes.json: axes of the political compass, stances that vary, clusters of sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from truing.measures import political_axes, trope_clusters

Values = dict[str, Any]


def pct_axes(inputs: Values, given: Values) -> Values:
    return political_axes.pct_axes(inputs["answers"])


def pct_axes_of_repeats(inputs: Values, given: Values) -> Values:
    return political_axes.pct_axes(political_axes.of_repeats(inputs["answers_per_proposition"], skip_missing=False))


def stance_total_variation(inputs: Values, given: Values) -> Values:
    found = political_axes.stance_total_variation(
        inputs["closed_counts_agree_disagree_none"], inputs["open_counts_agree_disagree_none"],
        digits=given["round_probabilities"],
    )  # fmt: skip
    known = [value for value in found if value is not None]
    return {"tvd": sum(known) / len(known)}


def trope_clusters_(inputs: Values, given: Values) -> Values:
    angles = np.radians(inputs["unit_vector_angles_degrees"])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = trope_clusters.cluster(vectors, eps=given["eps"], min_samples=given["min_samples"])
    kept = trope_clusters.kept_clusters(vectors, labels, more_than=given["keep_if_more_than"])
    return {
        "labels": labels.tolist(),
        "kept_clusters_to_centroid_index": {str(name): at for name, at in kept.items()},
    }


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "pct_axes": pct_axes, "pct_axes_of_repeats": pct_axes_of_repeats,
    "stance_total_variation": stance_total_variation, "trope_clusters": trope_clusters_,
}  # fmt: skip
