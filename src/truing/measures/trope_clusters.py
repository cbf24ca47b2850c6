"""Tight clusters among sentences, by their embeddings: arguments that come again.

Pure functions over NumPy arrays. Source: Wright et al. 2024 and its code, which takes DBSCAN from scikit-learn; labels
here are the same, cluster for cluster.
"""

from __future__ import annotations

import numpy as np

BLOCK = 2048  # rows whose similarities to all others exist at one time


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows [n, d] brought to length 1; a row of zeros stays one."""
    found = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(lengths > 0, lengths, 1.0))


def cluster(vectors: np.ndarray, *, eps: float = 0.15, min_samples: int = 10) -> np.ndarray:
    """DBSCAN by cosine distance: cluster numbers [n] in the order of their first core point, -1 for noise.

    Args:
        vectors: [n, d].
        eps: largest distance of neighbours, from 0 to 2.
        min_samples: neighbours of a core point, itself among them.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    rows = unit_rows(vectors)
    n = len(rows)
    if not n:
        return np.zeros(0, dtype=int)
    near: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, n, BLOCK):
        close = np.nonzero(1 - rows[start : start + BLOCK] @ rows.T <= eps + 1e-12)
        near.append((close[0] + start, close[1]))
    one, other = (np.concatenate(part) for part in zip(*near))
    core = np.bincount(one, minlength=n) >= min_samples
    among = core[one] & core[other]
    graph = csr_matrix((np.ones(int(among.sum()), dtype=bool), (one[among], other[among])), shape=(n, n))
    _, parts = connected_components(graph, directed=False)
    numbers: dict[int, int] = {}
    labels = np.full(n, -1)
    for at in np.flatnonzero(core):
        labels[at] = numbers.setdefault(int(parts[at]), len(numbers))
    # A point near several clusters belongs to the one that was found first.
    border = ~core[one] & core[other]
    reached = np.full(n, n)
    np.minimum.at(reached, one[border], labels[other[border]])
    edge = ~core & (reached < n)
    labels[edge] = reached[edge]
    return labels


def kept_clusters(
    vectors: np.ndarray, labels: np.ndarray, *, more_than: int = 10, most_share: float = 0.5
) -> dict[int, int]:
    """Clusters that are kept, each with the place of its representative, the vector nearest to their mean.

    Noise is dropped, then clusters of at most ``more_than``, then those that hold at least ``most_share`` of what is
    left: a cluster that holds nearly everything is the question itself, and no argument.

    Args:
        vectors: [n, d], as embedded.
        labels: [n], see `cluster`.
        more_than: a cluster has more vectors than that.
        most_share: a cluster holds less of what is left.
    """
    found = np.asarray(vectors, dtype=np.float64)
    sizes = {int(name): int((labels == name).sum()) for name in np.unique(labels) if name >= 0}
    large = {name: size for name, size in sizes.items() if size > more_than}
    left = sum(large.values())
    kept = {}
    for name, size in large.items():
        if size >= most_share * left:
            continue
        members = np.flatnonzero(labels == name)
        apart = np.linalg.norm(found[members] - found[members].mean(0), axis=1)
        kept[name] = int(members[int(apart.argmin())])
    return kept


def jaccard(one: set[str], other: set[str]) -> float:
    """What two sets share of all that they hold; 1 for two empty ones, which are equal."""
    return len(one & other) / len(one | other) if one | other else 1.0
