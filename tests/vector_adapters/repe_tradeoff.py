"""repe-tradeoff.json: reading vectors, edits, curves, and the form of a control-vector file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truing.measures import tradeoff_curves as curves
from truing.measures.substring_rules import agree_or_refuse, choice_letter
from truing.methods.steering import edits, gguf, reading

Values = dict[str, Any]


def reading_vector(inputs: Values, given: Values) -> Values:
    states = torch.stack([torch.tensor(inputs["positive"]), torch.tensor(inputs["negative"])], 1)
    found = {
        "mean_difference": reading.mean_difference(states),
        "pca_center": reading.pca_center(states),
        "pca_uncentred_on_plus_minus_differences": reading.pca_center(states),
        "pca_diff_centred_same_order": reading.pca_differences(states, "same"),
        "pca_diff_alternating_order_with_label_sign": reading.pca_differences(states, "alternating"),
    }
    return {name: vector.tolist() for name, vector in found.items()}


def apply_control(inputs: Values, given: Values) -> Values:
    places = inputs.get("position_ids")
    mask = None if places is None else edits.real_positions(torch.tensor(places))
    hidden, vector = torch.tensor(inputs["hidden"]), torch.tensor(inputs["vector"])
    changed = edits.apply_control(hidden, vector, given["coefficient"], keep_norm=given["keep_norm"], mask=mask)
    return {"hidden": changed.tolist()}


def ablate_direction(inputs: Values, given: Values) -> Values:
    hidden, vector = torch.tensor(inputs["hidden"]), torch.tensor(inputs["vector"])
    return {
        "hidden": edits.ablate_direction(hidden, vector).tolist(),
        "hidden_ablate_then_add": edits.ablate_direction(hidden, vector, add=1.0).tolist(),
    }


def helpfulness_curve(inputs: Values, given: Values) -> Values:
    found = [curves.helpfulness_curve(inputs["strengths"], **given, four_choices=four) for four in (False, True)]
    return {"whole_vocabulary": found[0].tolist(), "four_choices": found[1].tolist()}


def alignment_curve(inputs: Values, given: Values) -> Values:
    start = float(curves.alignment_curve([0.0], **given)[0])
    found = curves.alignment_curve(inputs["strengths"], **given).tolist()
    return {"behaviour": found, "start": start, "slope_at_zero": given["a"] * (1 - start**2)}


def last_layer_toy(inputs: Values, given: Values) -> Values:
    found = curves.last_layer_steering(
        np.array(inputs["unembedding"]), np.array(inputs["hidden"]), np.array(inputs["direction"]),
        inputs["positive_tokens"], inputs["negative_tokens"], inputs["correct_token"], inputs["strengths"],
    )  # fmt: skip
    return {
        "behaviour": found["behaviour"].tolist(), "p_correct": found["p_correct"].tolist(), "margin_gap": found["gap"],
        "behaviour_lower_bound_for_positive_strength": found["bound"].tolist(),
        "logit_shift_against_correct": found["shift"].tolist(),
    }  # fmt: skip


def gaussian_helpfulness(inputs: Values, given: Values) -> Values:
    exact, bound = curves.gaussian_helpfulness(inputs["p0"], inputs["strengths"], given["sigma"])
    return {"p_correct_mean_field": exact.tolist(), "quadratic_bound": bound.tolist()}


def rules(inputs: Values, given: Values) -> Values:
    return {f"{rule}_rule": agree_or_refuse(inputs["answer"], rule, **given) for rule in ("chat", "raw")}


def letter(inputs: Values, given: Values) -> Values:
    found, at = choice_letter(inputs["tokens"])
    return {"letter": found, "index": at}


def control_vector_file(inputs: Values, given: Values) -> Values:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        rows = {int(layer): np.array(row, dtype=np.float32) for layer, row in inputs["directions"].items()}
        gguf.write(path, rows, inputs["model_hint"])
        metadata, found = gguf.read(path)
    return {
        "metadata": {key: {"types": [kind], "value": value} for key, (kind, value) in metadata.items()},
        "tensors": {
            f"direction.{layer}": {"dtype": "F32", "shape": list(row.shape), "values": row.tolist()}
            for layer, row in found.items()
        },
    }


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "reading_vector": reading_vector, "apply_control": apply_control, "ablate_direction": ablate_direction,
    "helpfulness_curve": helpfulness_curve, "alignment_curve": alignment_curve, "last_layer_toy": last_layer_toy,
    "gaussian_helpfulness": gaussian_helpfulness, "agree_or_refuse": rules, "choice_letter": letter,
    "control_vector_file": control_vector_file,
}  # fmt: skip
