"""The maps of a rewrite in compiled loops: each id read once and each row written once, on a CPU.

Torch needs up to a dozen passes over the ids of a map. Other devices, other types than int64, and
graphs run as before; so does everything without Numba.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compactrec.embeddings.numba_team import has_numba
from compactrec.embeddings.rewrites import Blocks

__all__ = ["CompiledBlocks", "CompiledMaps", "ids_in_range", "is_plain"]

Integers = NDArray[np.int64]
_KINDS = ("identity", "digit", "hash", "keep", "clip", "look_up", "remap", "rank")
"""Kinds of maps that there are loops for; what a method brings of its own may have none."""


def is_plain(ids: Tensor, weights: Tensor | None = None) -> bool:
    """True for ids, and weights of them, that a compiled loop reads."""
    simple = weights is None or (weights.dtype == torch.float32 and not weights.requires_grad)
    return (
        simple
        and ids.dtype == torch.int64
        and ids.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and has_numba()
    )


class CompiledMaps:
    """The maps of some streams, in their order.

    Args:
        kinds: for every stream the kind of its map and which of that kind it is.
        features: for every stream the feature that it reads.
    """

    def __init__(self, kinds: Sequence[tuple[str, int]], features: Sequence[int]) -> None:
        self._kinds, self._features = tuple(kinds), np.asarray(features, np.int64)
        self._read: tuple[tuple[Tensor, int], ...] = ()
        self._lines = np.empty((0, 0), np.int64)

    @staticmethod
    def covers(kinds: Sequence[str]) -> bool:
        """True if there is a loop for each kind."""
        return set(kinds) <= set(_KINDS)

    def rows(
        self,
        values: Tensor,
        counts: Sequence[int],
        state: dict[str, tuple[Tensor, Tensor | None]],
    ) -> Tensor:
        """Rows of all streams, one after the other; ``IndexError`` where an array lacks an id.

        Args:
            values: ids by feature. ``counts``: how many each feature has.
            state: by kind, parameters ``(num_params, S)`` and the array of its maps.
        """
        from compactrec.embeddings import numba_maps as compiled
        from compactrec.embeddings import numba_team

        values = values.contiguous()
        starts = np.cumsum([0, *counts])
        lines = self._lines_of(state).copy()
        lines[:, 1] = starts[self._features]
        lines[:, 2] = starts[self._features + 1] - lines[:, 1]
        lines[:, 3] = np.cumsum(lines[:, 2]) - lines[:, 2]
        out = values.new_empty(int(lines[:, 2].sum()))
        results = np.full(len(lines), -1, np.int64)
        numba_team.run(
            compiled.map_share, len(lines), results.ctypes.data, lines.ctypes.data,
            values.data_ptr(), out.data_ptr(), few=out.numel() < numba_team.FEW,
        )  # fmt: skip
        if (results >= 0).any():
            stream = int((results >= 0).argmax())
            wrong = int(values[int(lines[stream, 1] + results[stream])])
            raise IndexError(
                f"id {wrong} is not in the array of its feature's map; build the collection with "
                f"check_ids=True to see the feature"
            )
        return out

    def _lines_of(self, state: dict[str, tuple[Tensor, Tensor | None]]) -> Integers:
        """Kinds, parameters and arrays; made anew when a buffer is another or was written to."""
        buffers = [b for pair in state.values() for b in pair if b is not None]
        read = tuple((b, b._version) for b in buffers)
        same = len(read) == len(self._read) and all(
            a is b and m == n for (a, m), (b, n) in zip(read, self._read, strict=True)
        )
        if not same or not len(self._lines):
            self._lines, self._read = self._make_lines(state), read
        return self._lines

    def _make_lines(self, state: dict[str, tuple[Tensor, Tensor | None]]) -> Integers:
        from compactrec.embeddings import numba_maps as compiled

        codes = {kind: getattr(compiled, kind.upper()) for kind in _KINDS}
        lines = np.zeros((len(self._kinds), compiled.LINE), np.int64)
        for line, (kind, which) in zip(lines, self._kinds, strict=True):
            line[0] = codes[kind]
            if kind not in state:
                continue
            params, array = state[kind]
            line[4 : 4 + len(params)] = params[:, which].numpy()
            if array is not None:  # the last parameter says where in it
                first = int(params[-1, which])
                last = int(params[-1, which + 1]) if which + 1 < params.shape[1] else len(array)
                line[7] = array.data_ptr() + array.element_size() * first
                line[8] = last - first
        return lines

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: a copy reads its own buffers."""
        return {**self.__dict__, "_read": (), "_lines": np.empty((0, 0), np.int64)}


class CompiledBlocks:
    """Streams that are split into blocks of rows, in their order; parts are numbered through.

    Args:
        splits: the blocks of each stream.
    """

    def __init__(self, splits: Sequence[Blocks]) -> None:
        blocks, first = [], 0
        self._bounds = np.cumsum([0, *(len(split.starts) for split in splits)])
        for split in splits:
            for start, lanes in zip(split.starts, split.lanes, strict=True):
                magic = min(2**64 // max(lanes, 2), 2**63 - 1)
                blocks.append((start, first if lanes else -1, lanes, magic))
                first += lanes
        self.num_parts = first
        self._blocks = np.array(blocks, np.int64)

    def run(
        self, rows: Tensor, counts: Sequence[int], lengths: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of all parts, lengths ``(parts, B)`` and weights.

        Args:
            rows: rows by stream. ``counts``: how many each stream has.
            lengths: of bags, ``(S, B)``; None where each bag has one id.
            weights: of ids, by stream.
        """
        from compactrec.embeddings import numba_maps as compiled
        from compactrec.embeddings import numba_team

        bags = counts[0] if lengths is None else lengths.shape[1]
        lengths = None if lengths is None else lengths.long().contiguous()
        weights = None if weights is None else weights.contiguous()
        lines = np.zeros((len(counts), 5), np.int64)
        lines[:, 0], lines[:, 1] = np.cumsum([0, *counts])[:-1], counts
        lines[:, 3], lines[:, 4] = self._bounds[:-1], self._bounds[1:]
        parts, local = torch.empty_like(rows), torch.empty_like(rows)
        grid = rows.new_zeros(self.num_parts, bags)
        sizes = np.zeros(self.num_parts, np.int64)
        few = rows.numel() < numba_team.FEW
        numba_team.run(
            compiled.route_share, len(lines), lines.ctypes.data, self._blocks.ctypes.data,
            len(self._blocks), bags, rows.data_ptr(), 0 if lengths is None else lengths.data_ptr(),
            parts.data_ptr(), local.data_ptr(), grid.data_ptr(), sizes.ctypes.data, self.num_parts,
            few=few,
        )  # fmt: skip
        places = np.cumsum(sizes) - sizes
        out = rows.new_empty(int(sizes.sum()))
        placed = None if weights is None else weights.new_empty(len(out))
        numba_team.run(
            compiled.place_share, len(lines), lines.ctypes.data, parts.data_ptr(),
            local.data_ptr(), places.ctypes.data, out.data_ptr(),
            0 if weights is None else weights.data_ptr(),
            0 if placed is None else placed.data_ptr(), few=few,
        )  # fmt: skip
        return out, grid, placed


def ids_in_range(values: Tensor, counts: Sequence[int], bounds: Tensor) -> bool:
    """True if the ids of every feature are in ``0 .. bound``."""
    from compactrec.embeddings import numba_maps as compiled
    from compactrec.embeddings import numba_team

    values, bounds = values.contiguous(), bounds.contiguous()
    starts = np.cumsum([0, *counts])
    results = np.zeros(len(counts), np.int64)
    numba_team.run(
        compiled.check_share, len(counts), results.ctypes.data, starts.ctypes.data,
        bounds.data_ptr(), values.data_ptr(), few=values.numel() < numba_team.FEW,
    )  # fmt: skip
    return not results.any()
