"""DLRM as arXiv 1906.00091 and its public reference have it, in plain loops over one example.

The dot part is the strictly lower triangle (or with the diagonal) of T T^T, row by row.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["dlrm_logits", "interact"]

Array = npt.NDArray[np.float64]
Layers = list[tuple[Array, Array]]


def _layers(x: Array, layers: Layers, relu_at_end: bool) -> Array:
    for i, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if relu_at_end or i < len(layers) - 1:
            x = np.maximum(x, 0.0)
    return x


def interact(vectors: list[Array], kind: str, itself: bool) -> Array:
    """Bottom vector first; ``(D + pairs,)`` for ``dot``, ``((F + 1) D,)`` for ``cat``."""
    if kind == "cat":
        return np.concatenate(vectors)
    pairs = [
        float(np.dot(vectors[i], vectors[j]))
        for i in range(len(vectors))
        for j in range(i + 1 if itself else i)
    ]
    return np.concatenate([vectors[0], np.array(pairs)])


def dlrm_logits(
    dense: Array,
    bags: list[list[list[int]]],
    tables: list[Array],
    bottom: Layers,
    top: Layers,
    kind: str = "dot",
    itself: bool = False,
) -> Array:
    """Logits ``(B,)``; ``bags[feature][example]`` is a list of ids."""
    logits = []
    for example, row in enumerate(dense):
        vectors = [_layers(row, bottom, relu_at_end=True)]
        for table, feature_bags in zip(tables, bags, strict=True):
            pooled = np.zeros(table.shape[1])
            for id_ in feature_bags[example]:
                pooled = pooled + table[id_]
            vectors.append(pooled)
        logits.append(_layers(interact(vectors, kind, itself), top, relu_at_end=False)[0])
    return np.array(logits)
