"""Rules that merge one tensor of several models into one: pure functions of tensors.

Notation of the papers: w_0 is the base (a common ancestor), w_i a model, d_i = w_i - w_0 its offset, N the number of
models. Arithmetic is in float32 for half precision and in float64 for the rest, block by block, so that beside the
tensors themselves and the result only a few megabytes are held. The result has the dtype of the first model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from truing.contracts import require
from truing.errors import ModelError

BLOCK = 1 << 17  # elements worked on at a time: they stay in the cache of a core, which halves the time
PARALLEL = 0.9995  # slerp: beyond this cosine the angle is too small to divide by its sine


# --- the rules -------------------------------------------------------------------------------------------------------


def linear(tensors: Sequence[Tensor], weights: Sequence[float], *, normalize: bool = True) -> Tensor:
    """The weighted mean, sum_i a_i w_i / sum_i a_i; without ``normalize`` the weighted sum.

    Args:
        tensors: one of each model, all of one shape.
        weights: a_i, one for each model.
        normalize: divide by the sum of the weights.

    Raises:
        ModelError: the shapes differ.
        SettingsError: the weights do not fit the models, or sum to 0.

    Source: Wortsman et al. 2022 (model soups), arXiv 2203.05482.
    """
    _check(tensors, weights)
    require(not normalize or math.fsum(weights) != 0, f"weights of a mean must not sum to 0, got {list(weights)}.")
    return _combine(tensors, _shares(weights, normalize))


def task_arithmetic(
    base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], *, lam: float = 1.0, normalize: bool = False
) -> Tensor:
    """The base plus weighted offsets: w_0 + lam * sum_i a_i d_i. A negative ``lam`` takes a behaviour away.

    Args:
        base: w_0.
        tensors: w_i, one of each model.
        weights: a_i.
        lam: scales all offsets; 0 gives the base, and 1 with one model of weight 1 exactly that model.
        normalize: divide the weights by their sum, unless that is 0.

    Raises:
        ModelError: the shapes differ.
        SettingsError: the weights do not fit the models.

    Source: Ilharco et al. 2023, arXiv 2212.04089.
    """
    _check(tensors, weights, base)
    scaled = [lam * share for share in _shares(weights, normalize)]
    # As (1 - lam sum a) w_0 + sum lam a_i w_i the two limits hold to the last bit.
    return _combine([*tensors, base], [*scaled, 1.0 - math.fsum(scaled)])


def model_stock(
    base: Tensor,
    tensors: Sequence[Tensor],
    *,
    filter_wise: bool = False,
    clamp: bool = False,
    on_degenerate: str = "error",
) -> tuple[Tensor, dict[str, Any]]:
    """Model Stock: t * mean_i w_i + (1 - t) * w_0, t = N c / (1 + (N - 1) c), c the mean cosine between offsets.

    A pair with an offset of length 0 counts as cosine 0, so what no model changed stays the base. The reference
    implementation (mergekit) does not bound t, which is negative for offsets at an obtuse angle; ``clamp`` does, and
    `TensorMerge` asks for it. It also takes 1e-6 for a smaller product of two lengths; here cosines are exact.

    Args:
        base: w_0.
        tensors: w_i, two or more.
        filter_wise: one cosine and one t for each row (last dimension); otherwise one for the flattened tensor.
        clamp: keep t within [0, 1].
        on_degenerate: where 1 + (N - 1) c is 0 (offsets that cancel out), "error", or "linear" for the plain mean.

    Returns:
        The merged tensor, and ``pairwise_cos`` (of the pairs (0, 1), (0, 2), ..., (1, 2), ...), ``mean_cos`` and ``t``:
        numbers, or filter-wise lists with one of each row. ``clamped`` and ``degenerate`` count the rows that were so.

    Raises:
        ModelError: there are fewer than two models, the shapes differ, or offsets cancel out.

    Source: Jang et al. 2024, arXiv 2403.19522; Lin et al. 2024 (Baichuan alignment), arXiv 2410.14940.
    """
    count = len(tensors)
    if count < 2:
        raise ModelError(f"Model Stock compares at least two models beside their base, got {count}.")
    _check(tensors, None, base)
    rows = rows_of(base, filter_wise).shape[0]
    gram = torch.zeros(count, count, rows, dtype=torch.float64)
    for where in blocks(rows_of(base, filter_wise)):
        origin = _part(base, where, filter_wise, torch.float64)
        offsets = torch.stack([_part(tensor, where, filter_wise, torch.float64) - origin for tensor in tensors])
        gram[:, :, where[0]] += torch.einsum("irc,jrc->ijr", offsets, offsets)
    lengths = gram.diagonal(dim1=0, dim2=1).T.sqrt()  # [N, rows]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    products = torch.stack([lengths[i] * lengths[j] for i, j in pairs])
    cosines = torch.stack([gram[i, j] for i, j in pairs]) / products.where(products > 0, torch.ones(()))
    cosines = cosines.clamp(-1, 1)
    mean = cosines.mean(0)
    below = 1 + (count - 1) * mean
    degenerate = below <= 1e-9
    if bool(degenerate.any()) and on_degenerate != "linear":
        row = f" in row {int(degenerate.nonzero()[0, 0])}" if filter_wise and rows > 1 else ""
        raise ModelError(
            f"the offsets cancel out{row} (mean cosine -1/{count - 1}), where Model Stock divides by zero. "
            'Leave out one of the models, or set on_degenerate="linear" to take the plain mean there.'
        )
    t = torch.where(degenerate, torch.ones(()), count * mean / below.where(~degenerate, torch.ones(())))
    outside = (t < 0) | (t > 1)
    if clamp:
        t = t.clamp(0, 1)
    merged = _combine([*tensors, base], [t / count] * count + [1 - t], filter_wise)
    told = {"pairwise_cos": cosines, "mean_cos": mean, "t": t}
    return merged, {
        **{key: (value if filter_wise else value[..., 0]).tolist() for key, value in told.items()},
        "clamped": int(outside.sum()) if clamp else 0,
        "degenerate": int(degenerate.sum()),
    }


def ties(
    base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], *, density: float = 0.2, lam: float = 1.0
) -> Tensor:
    """Trim, elect a sign, merge: the base plus lam times the mean of the offsets that agree with the elected sign.

    Each model keeps its ``density`` largest offsets by magnitude; of equal ones the first. At each entry the sign of
    the weighted sum is elected (plus where it is 0), and the offsets of that sign are averaged by weight. The paper
    trims a model as a whole; here, as in mergekit, each tensor is trimmed alone, which is what streaming allows.

    Args:
        base: w_0.
        tensors: w_i.
        weights: a_i >= 0; only their ratios count.
        density: share of entries that each model keeps, over 0 and up to 1; one entry at least.
        lam: scales the merged offset.

    Raises:
        ModelError: the shapes differ.
        SettingsError: a weight or ``density`` cannot work.

    Source: Yadav et al. 2023, arXiv 2306.01708.
    """
    _check(tensors, weights, base)
    require(
        min(weights) >= 0 and sum(weights) > 0, f"TIES takes weights of at least 0, not all 0, got {list(weights)}."
    )
    check_share("density", density, 0 < density <= 1)
    keep = max(1, round(density * base.numel()))
    limits = [_limit(base, tensor, keep) if keep < base.numel() else (-1.0, 0) for tensor in tensors]
    spare = [at_limit for _, at_limit in limits]
    shares = torch.tensor(weights, dtype=torch.float64)[:, None, None]
    out = _empty(tensors)
    for where in blocks(rows_of(out)):
        origin = _part(base, where, dtype=working_dtype(tensors))
        kept = []
        for at, tensor in enumerate(tensors):
            offset = _part(tensor, where, dtype=origin.dtype) - origin
            size = _magnitude(offset)
            equal = size == limits[at][0]
            if int(equal.sum()) > spare[at]:  # of entries exactly at the limit as many as there is room for
                equal &= equal.cumsum(1) <= spare[at]
            spare[at] -= int(equal.sum())
            kept.append(offset.where((size > limits[at][0]) | equal, torch.zeros((), dtype=offset.dtype)))
        offsets = torch.stack(kept)
        mass = shares.to(offsets.dtype)
        elected = (offsets * mass).sum(0) >= 0
        agree = (offsets != 0) & ((offsets > 0) == elected) & (mass > 0)
        total = (mass * agree).sum(0)
        mean = (offsets * mass * agree).sum(0) / total.where(total > 0, torch.ones((), dtype=total.dtype))
        _put(out, where, origin + lam * mean)
    return out


def dare(
    base: Tensor,
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    *,
    drop: float = 0.9,
    lam: float = 1.0,
    seed: int = 0,
    name: str = "",
    normalize: bool = False,
) -> Tensor:
    """Drop and rescale: w_0 + lam * sum_i a_i m_i d_i / (1 - drop), m_i a random mask; on average `task_arithmetic`.

    Args:
        base: w_0.
        tensors: w_i.
        weights: a_i.
        drop: probability with which an entry of an offset is dropped, from 0 to below 1.
        lam: scales all offsets.
        seed: of the masks, together with the name of the tensor and the model's place; so neither the order of tensors
            nor the device changes them.
        name: of the tensor.
        normalize: divide the weights by their sum, unless that is 0.

    Raises:
        ModelError: the shapes differ.
        SettingsError: the weights or ``drop`` cannot work.

    Source: Yu et al. 2024, arXiv 2311.03099.
    """
    _check(tensors, weights, base)
    check_share("drop", drop, 0 <= drop < 1)
    scaled = [lam * share / (1 - drop) for share in _shares(weights, normalize)]
    draws = [_generator(seed, name, at) for at in range(len(tensors))]
    out = _empty(tensors)
    for where in blocks(rows_of(out)):
        origin = _part(base, where, dtype=working_dtype(tensors))
        merged = origin.clone()
        for tensor, scale, draw in zip(tensors, scaled, draws):
            kept = torch.rand(origin.shape, generator=draw, dtype=torch.float32) >= drop
            merged += kept.to(origin.dtype) * scale * (_part(tensor, where, dtype=origin.dtype) - origin)
        _put(out, where, merged)
    return out


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Spherical interpolation of two flattened tensors: sin((1-t) a)/sin a * first + sin(t a)/sin a * second.

    a is the angle between them. Lengths are kept as they are. Vectors that are nearly parallel or nearly opposite
    (|cos| over 0.9995), or of length 0, are interpolated linearly.

    Args:
        first: the result at t = 0.
        second: the result at t = 1.
        t: how far to go, 0 to 1.

    Raises:
        ModelError: the shapes differ.

    Source: Shoemake 1985.
    """
    _check([first, second])
    sums = torch.zeros(3, dtype=torch.float64)
    for where in blocks(rows_of(first)):
        one, two = (_part(tensor, where, dtype=torch.float64).reshape(-1) for tensor in (first, second))
        sums += torch.stack([one @ two, one @ one, two @ two])
    dot, *squares = sums.tolist()
    length = math.sqrt(squares[0]) * math.sqrt(squares[1])
    cosine = max(-1.0, min(1.0, dot / length)) if length > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return _combine([first, second], [1 - t, t])
    angle = math.acos(cosine)
    return _combine(
        [first, second], [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    )


# --- blocks ----------------------------------------------------------------------------------------------------------

_Where = tuple[slice, slice]


def rows_of(tensor: Tensor, filter_wise: bool = False) -> Tensor:
    """[rows, columns]: the last dimension as rows of their own where asked for, else one row."""
    wide = filter_wise and tensor.dim() > 1 and tensor.numel() > 0
    return tensor.detach().reshape((-1, tensor.shape[-1]) if wide else (1, tensor.numel()))


def blocks(rows: Tensor) -> Iterator[_Where]:
    """Slices of about BLOCK elements that cover a [rows, columns] tensor in its order."""
    height, width = rows.shape
    step = max(1, BLOCK // max(1, width))
    for top in range(0, height, step):
        for left in range(0, width, BLOCK):
            yield slice(top, top + step), slice(left, left + BLOCK)


def _part(tensor: Tensor, where: _Where, filter_wise: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    return rows_of(tensor, filter_wise)[where].to("cpu", dtype)


def _put(out: Tensor, where: _Where, value: Tensor, filter_wise: bool = False) -> None:
    rows_of(out, filter_wise)[where] = value.to(out.dtype)


def _empty(tensors: Sequence[Tensor]) -> Tensor:
    return torch.empty(tensors[0].shape, dtype=tensors[0].dtype)


def working_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """float32 if all are of half precision, else float64."""
    half = all(tensor.dtype.itemsize <= 2 for tensor in tensors)
    return torch.float32 if half else torch.float64


def _combine(tensors: Sequence[Tensor], scales: Sequence[float | Tensor], filter_wise: bool = False) -> Tensor:
    """sum_i scale_i * tensor_i in the dtype of the first; a scale is a number, or one of each row, [rows]."""
    out, dtype = _empty(tensors), working_dtype(tensors)
    for where in blocks(rows_of(out, filter_wise)):
        total = torch.zeros((), dtype=dtype)
        for tensor, scale in zip(tensors, scales, strict=True):
            factor = scale[where[0], None].to(dtype) if isinstance(scale, Tensor) else scale
            total = total + _part(tensor, where, filter_wise, dtype) * factor
        _put(out, where, total, filter_wise)
    return out


def _limit(base: Tensor, tensor: Tensor, keep: int) -> tuple[float, int]:
    """The magnitude of the keep-th largest offset, and how many at exactly that magnitude are kept.

    Positive floats are ordered as their bits are: two counts of 16 bits each find it, without a copy of the tensor.
    """
    dtype = working_dtype([tensor])
    found = 0
    for shift in (16, 0):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for where in blocks(rows_of(base)):
            offset = _part(tensor, where, dtype=dtype) - _part(base, where, dtype=dtype)
            bits = _magnitude(offset)[0].view(torch.int32)
            if shift == 0:
                bits = bits[bits >> 16 == found]
            counts += torch.bincount(bits >> shift & 0xFFFF, minlength=1 << 16)
        above = counts.flip(0).cumsum(0)
        at = int((above >= keep).nonzero()[0])
        keep -= int(above[at - 1]) if at else 0
        found = (found << 16) | (0xFFFF - at)
    return float(torch.tensor(found, dtype=torch.int32).view(torch.float32)), keep


def _magnitude(offset: Tensor) -> Tensor:
    return offset.abs().float()


def _generator(seed: int, name: str, at: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}:{at}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


# --- checks ----------------------------------------------------------------------------------------------------------


def _check(tensors: Sequence[Tensor], weights: Sequence[float] | None = None, base: Tensor | None = None) -> None:
    if not tensors:
        raise ModelError("there is no model to merge.")
    shapes = dict.fromkeys(tuple(tensor.shape) for tensor in (*tensors, *([] if base is None else [base])))
    if len(shapes) > 1:
        raise ModelError(f"the shapes differ: {' and '.join(str(list(shape)) for shape in shapes)}.")
    if weights is not None:
        require(
            len(weights) == len(tensors),
            f"there must be one weight for each model, got {len(weights)} for {len(tensors)}.",
        )


def _shares(weights: Sequence[float], normalize: bool) -> list[float]:
    if not normalize:
        return [float(weight) for weight in weights]
    total = math.fsum(weights) or 1.0
    return [weight / total for weight in weights]


def check_share(name: str, value: object, good: bool) -> None:
    """Raise `SettingsError` for a share out of its bounds."""
    bounds = {"density": "over 0 and up to 1", "drop": "from 0 to below 1"}
    require(good, f"`{name}` is a share, {bounds[name]}, got {value!r}.")
