"""Training frequencies that a person gives: what they must be, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compactrec.embeddings.feature import Feature

__all__ = ["Counts", "checked_counts"]

Counts = Mapping[str, NDArray[np.int64]]
"""Training frequency of every id by feature name, ``(num_ids,)`` each."""
_TOO_MANY = 2**63
_MANY = 8
"""So many names are in an error."""


def checked_counts(features: Sequence[Feature], counts: Any, known: Sequence[str]) -> Counts | None:
    """``counts`` of ``features`` as int64 arrays; those of other names are left as they are.

    Whole numbers may be stored as floats. ``known`` are all features that there are.

    Raises:
        TypeError: they are no mapping, or hold something else than numbers.
        ValueError: a feature has none, not one for each id, or one that is no whole number >= 0.
    """
    if counts is None:
        return None
    if not isinstance(counts, Mapping):
        raise TypeError(
            f"counts must be a mapping from names of features to arrays, got "
            f"{type(counts).__name__}; write {{{features[0].name!r}: an array of num_ids counts}}"
        )
    closed = [feature for feature in features if feature.num_ids is not None]
    _check_names([feature.name for feature in closed], known, list(counts))
    return {**counts, **{f.name: _checked(f, counts[f.name]) for f in closed}}


def _check_names(needed: list[str], known: Sequence[str], given: list[Any]) -> None:
    missing = [name for name in needed if name not in given]
    if missing:
        idle = [name for name in given if name not in known]
        instead = f"; there are some of {_listed(idle)}, as no feature is called" if idle else ""
        raise ValueError(
            f"counts are missing for {_listed(missing)}{instead}; give an array for each of "
            f"{_listed(needed)}"
        )


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(map(repr, names[:_MANY])) + more


def _checked(feature: Feature, given: Any) -> NDArray[np.int64]:
    what = f"counts of feature {feature.name!r}"
    found = np.asarray(given)
    if found.shape != (feature.num_ids,):
        entries = f"{len(found)} entries" if found.ndim == 1 else f"shape {found.shape}"
        raise ValueError(
            f"{what} have {entries}, expected num_ids = {feature.num_ids}; take them from the data "
            f"the plan is for"
        )
    if found.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} must be whole numbers, got an array of {found.dtype}; give int64, how often "
            f"each id is in the training data"
        )
    wrong = ~(found >= 0) | (found != np.floor(found)) | (found >= _TOO_MANY)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{what} must be whole numbers >= 0, got {found[first]} for id {first}; give how "
            f"often each id is in the training data, 0 where it never is"
        )
    return found.astype(np.int64, copy=False)
