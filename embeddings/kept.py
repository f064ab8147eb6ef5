"""How ids find their rows where only some are kept: in order, by rank, or through an array.

``order``: id ``x`` has row ``x``, ids from the number of rows on are dropped; free. ``kept``: a
bitmap of the ids that are kept, and the row is the rank among them; 1.25 bits an id. ``remap``: an
int32 row for every id; 32 bits an id.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from compactrec.embeddings.bitmap import bitmap_index, index_words
from compactrec.embeddings.contract import Arrays, require_array, require_bitmap
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.rewrites import Identity, IdMap, Rank, Remap

__all__ = ["Ids", "as_bools", "ids_bytes", "kept_map", "require_num_ids"]

Ids = Literal["order", "kept", "remap"]


def kept_map(
    method: str,
    feature: Feature,
    arrays: Arrays,
    num_rows: int,
    *,
    kept: str | None,
    remap: str | None = None,
) -> tuple[IdMap, int]:
    """The map from ids to rows, and how many rows past ``num_rows`` stand for dropped ids.

    Raises ``ValueError`` on more rows than ids and on arrays that do not fit.
    """
    num_ids = require_num_ids(method, feature)
    if num_rows > num_ids:
        raise ValueError(
            f"{method}: {num_rows} rows for feature {feature.name!r}, which has {num_ids} ids; "
            f"there is one row an id at most"
        )
    if kept is not None:
        bitmap = require_bitmap(method, arrays, kept, feature, (1, num_ids), num_rows)
        return Rank(bitmap_index(bitmap, num_ids), num_ids, num_rows), 1
    if remap is not None:
        rows = require_array(method, arrays, remap, feature, num_rows, unique=True, drops=True)
        return Remap(rows, num_rows), 1
    return Identity(), num_ids - num_rows


def ids_bytes(ids: Ids, num_ids: int) -> int:
    """Bytes of the map in one stream: its array and its parameters."""
    if ids == "kept":
        return 8 * sum(index_words(num_ids)) + 8 * 3
    return 4 * num_ids + 8 * 2 if ids == "remap" else 0


def require_num_ids(method: str, feature: Feature) -> int:
    """The size of the vocabulary; raise on an open one."""
    if feature.num_ids is None:
        raise ValueError(
            f"{method}: feature {feature.name!r} has an open vocabulary, and what is kept of it "
            f"cannot be listed; give num_ids"
        )
    return feature.num_ids


def as_bools(
    method: str, feature: Feature, given: NDArray[np.bool_] | Tensor, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """As a bool array of that shape; raise on anything else."""
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.dtype != np.bool_ or array.shape != shape:
        raise ValueError(
            f"{method}: what is kept of feature {feature.name!r} must be a bool array of shape "
            f"{shape}, got {array.dtype} of shape {array.shape}"
        )
    return array
