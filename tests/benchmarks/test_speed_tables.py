"""The tables of speeds: every number stands under its own header."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compactrec.benchmarks.speed_tables import (
    kernels_table,
    models_table,
    parts_table,
    sharded_table,
    tables_table,
    training_table,
)

KERNELS = {
    "results": [
        {
            "optimizer": "adam", "threads": 2, "batch": 64, "dim": 16,
            "rows": {"numba": {
                "milliseconds": 1.26, "times_as_fast_as_fbgemm": 5.04,
                "times_as_fast_as_sparse": 3.3, "ratio_to_bound": 1.789,
            }},
        },
        {
            "optimizer": "rowwise_adagrad", "threads": 1, "batch": 32, "dim": 8,
            "rows": {"numba": {
                "milliseconds": 7.0, "times_as_fast_as_fbgemm": 6.0, "ratio_to_bound": 2.5,
            }},
        },
    ]
}  # fmt: skip
KERNELS_TEXT = """\
| optimizer | threads | batch, width | milliseconds | as fast as FBGEMM \
| as fast as `EmbeddingBag`, sparse | time / bound |
|---|---|---|---:|---:|---:|---:|
| Adam | 2 | 64, 16 | 1.3 | 5.0x | 3.3x | 1.79 |
| row-wise Adagrad | 1 | 32, 8 | 7.0 | 6.0x | - | 2.50 |"""

TABLES = {
    "results": [{
        "batch": 64, "dim": 16,
        "rows": {
            "fbgemm": {"ratio_to_fbgemm": 1.0, "ratio_to_full": 0.8},
            "full": {"ratio_to_fbgemm": 1.25, "ratio_to_full": 1.0, "ratio_to_physical": 1.1},
            "hash": {"ratio_to_fbgemm": 1.9, "ratio_to_full": 1.52, "ratio_to_physical": 1.37},
        },
    }]
}  # fmt: skip
TABLES_TEXT = """\
| batch, width | full / raw FBGEMM | `full` | `hash` |
| --- | --- | --- | --- |
| 64, 16 | 1.25 | 1.00 (1.10) | 1.52 (1.37) |"""

PARTS = {
    "results": [{
        "threads": 2,
        "rows": {
            "full": {"rewrite": 0.5, "combine": 0.125, "combine_backward": 0.125, "update": 2.0},
            "mixed": {"rewrite": 0.75, "combine": 0.5, "combine_backward": 1.0, "update": 3.0},
        },
        "bounds": {
            "full": {"combine": 0, "combine_backward": 0, "update": 1.5},
            "mixed": {"combine": 0.25, "combine_backward": 0.5, "update": 2.0},
        },
    }]
}  # fmt: skip
PARTS_TEXT = """\
| method | threads | rewrite | combine | combine backward | update | sum \
| bound | combines / bound |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `full` | 2 | 0.50 | 0.12 | 0.12 | 2.00 | 2.75 | 1.50 | - |
| `mixed` | 2 | 0.75 | 0.50 | 1.00 | 3.00 | 5.25 | 2.75 | 2.00 |"""

TRAINING = {
    "rows": {
        "dense_part": {"samples_per_second": 91234, "table_bytes": 0, "peak_bytes": 210_000_000},
        "hash": {
            "samples_per_second": 80_000, "table_bytes": 14_560_000, "peak_bytes": 330_400_000,
            "speed_beside_dense_part": 0.88, "speed_beside_embedding_sparse_adam": 1.51,
            "speed_beside_deepctr_torch": 12.5,
        },
    }
}  # fmt: skip
TRAINING_TEXT = """\
| entrant | samples/s | beside its dense part alone | beside SparseAdam \
| beside DeepCTR-Torch | tables | process grew by |
|---|---:|---:|---:|---:|---:|---:|
| `dense_part` | 91,234 | - | - | - | 0.0 MB | 210 MB |
| `hash` | 80,000 | 0.88x | 1.51x | 12.50x | 14.6 MB | 330 MB |"""

MODELS = {
    "models": {
        "fm": {
            "dense_part": {"times_as_fast_is_ours": 0.81},
            "compactrec": {"samples_per_second": 120_000, "peak_bytes": 200_400_000},
            "fuxictr": {"times_as_fast_is_ours": 2.345, "peak_bytes": 510_000_000},
        },
        "dcn": {
            "dense_part": {"times_as_fast_is_ours": 0.5},
            "compactrec": {"samples_per_second": 900, "peak_bytes": 1_000_000},
            "fuxictr": {"times_as_fast_is_ours": 1.5, "peak_bytes": 2_000_000},
            "deepctr_torch": {"times_as_fast_is_ours": 0.75, "peak_bytes": 3_000_000},
        },
    }
}
MODELS_TEXT = """\
| model | samples/s | beside its dense part alone | as fast as FuxiCTR's \
| as fast as DeepCTR-Torch's | grew by | FuxiCTR's | DeepCTR-Torch's |
|---|---:|---:|---:|---:|---:|---:|---:|
| `fm` | 120,000 | 0.81x | 2.35x | - | 200 MB | 510 MB | - |
| `dcn` | 900 | 0.50x | 1.50x | 0.75x | 1 MB | 2 MB | 3 MB |"""

SHARDED = {
    "rows": {
        "full_fused_1": {
            "samples_per_second": 1000, "held_bytes": [4_000_000], "planned_bytes": [4_100_000],
        },
        "full_sharded_2": {
            "samples_per_second": 1700, "speed_beside_fused_1": 1.7,
            "held_bytes": [2_000_000, 2_250_000], "planned_bytes": [2_050_000, 2_300_000],
        },
    }
}  # fmt: skip
SHARDED_TEXT = """\
| method, engine, processes | samples/s | beside one process | bytes held by each | planned |
|---|---:|---:|---:|---:|
| `full_fused_1` | 1,000 | - | 4.00 MB | 4.10 MB |
| `full_sharded_2` | 1,700 | 1.70x | 2.00 MB, 2.25 MB | 2.05 MB, 2.30 MB |"""


@pytest.mark.parametrize(
    ("table", "result", "text"),
    [
        (kernels_table, KERNELS, KERNELS_TEXT),
        (tables_table, TABLES, TABLES_TEXT),
        (parts_table, PARTS, PARTS_TEXT),
        (training_table, TRAINING, TRAINING_TEXT),
        (models_table, MODELS, MODELS_TEXT),
        (sharded_table, SHARDED, SHARDED_TEXT),
    ],
)
def test_a_table_of_a_small_result(
    table: Callable[[Path], str], result: Any, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert table(path) == text
