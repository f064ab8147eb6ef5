"""Tables of the speeds in result files, for the benchmarks' page."""

import json
from pathlib import Path
from typing import Any

__all__ = [
    "kernels_table",
    "models_table",
    "parts_table",
    "sharded_table",
    "tables_table",
    "training_table",
]

OPTIMIZERS = {
    "rowwise_adagrad": "row-wise Adagrad", "adagrad": "Adagrad", "adam": "Adam", "sgd": "SGD",
}  # fmt: skip


def kernels_table(path: Path) -> str:
    """How many times as fast Numba's kernel is, and how far from the bound."""
    lines = [
        "| optimizer | threads | batch, width | milliseconds | as fast as FBGEMM "
        "| as fast as `EmbeddingBag`, sparse | time / bound |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for result in _results(path):
        row = result["rows"]["numba"]
        times = [row.get(f"times_as_fast_as_{other}") for other in ("fbgemm", "sparse")]
        cells = [
            OPTIMIZERS[result["optimizer"]], str(result["threads"]),
            f"{result['batch']}, {result['dim']}", f"{row['milliseconds']:.1f}",
            *("-" if value is None else f"{value:.1f}x" for value in times),
            f"{row['ratio_to_bound']:.2f}",
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def tables_table(path: Path) -> str:
    """The table step of each method over that of full tables, and over its own physical tables."""
    results = _results(path)
    names = [n for n, row in results[0]["rows"].items() if "ratio_to_physical" in row]
    lines = [
        _line(["batch, width", "full / raw FBGEMM", *(f"`{n}`" for n in names)]),
        _line(["---"] * (2 + len(names))),
    ]
    for result in results:
        rows = result["rows"]
        cells = [
            f"{rows[n]['ratio_to_full']:.2f} ({rows[n]['ratio_to_physical']:.2f})" for n in names
        ]
        size = f"{result['batch']}, {result['dim']}"
        lines.append(_line([size, f"{rows['full']['ratio_to_fbgemm']:.2f}", *cells]))
    return "\n".join(lines)


def parts_table(path: Path) -> str:
    """Milliseconds of each part of a method's table step, and of what its bytes take alone."""
    results = _results(path)
    parts = list(results[0]["rows"]["full"])
    titles = [*(part.replace("_", " ") for part in parts), "sum", "bound", "combines / bound"]
    lines = [
        _line(["method", "threads", *titles]),
        _line(["---", "---", *["---:"] * len(titles)]),
    ]
    for result in results:
        for name, row in result["rows"].items():
            bounds = result["bounds"][name]
            combines = [sum(of[p] for p in ("combine", "combine_backward")) for of in (row, bounds)]
            cells = [f"{row[part]:.2f}" for part in parts]
            cells += [f"{sum(of.values()):.2f}" for of in (row, bounds)]
            cells += [f"{combines[0] / combines[1]:.2f}" if combines[1] else "-"]
            lines.append(_line([f"`{name}`", str(result["threads"]), *cells]))
    return "\n".join(lines)


def training_table(path: Path) -> str:
    """Steps of whole models: speed beside the dense part alone and beside the peers."""
    lines = [
        "| entrant | samples/s | beside its dense part alone | beside SparseAdam "
        "| beside DeepCTR-Torch | tables | process grew by |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in json.loads(path.read_text())["rows"].items():
        beside = ("dense_part", "embedding_sparse_adam", "deepctr_torch")
        ratios = [row.get(f"speed_beside_{other}") for other in beside]
        cells = [
            f"`{name}`", f"{row['samples_per_second']:,}",
            *("-" if value is None else f"{value:.2f}x" for value in ratios),
            f"{row['table_bytes'] / 1e6:.1f} MB", f"{row['peak_bytes'] / 1e6:.0f} MB",
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def models_table(path: Path) -> str:
    """Steps of every model: how many times as fast ours is as the peers' same model."""
    lines = [
        "| model | samples/s | beside its dense part alone | as fast as FuxiCTR's "
        "| as fast as DeepCTR-Torch's | grew by | FuxiCTR's | DeepCTR-Torch's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model, rows in json.loads(path.read_text())["models"].items():
        peers = [rows.get(name) for name in ("fuxictr", "deepctr_torch")]
        cells = [
            f"`{model}`", f"{rows['compactrec']['samples_per_second']:,}",
            f"{rows['dense_part']['times_as_fast_is_ours']:.2f}x",
            *("-" if row is None else f"{row['times_as_fast_is_ours']:.2f}x" for row in peers),
            *(
                "-" if row is None else f"{row['peak_bytes'] / 1e6:.0f} MB"
                for row in (rows["compactrec"], *peers)
            ),
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def sharded_table(path: Path) -> str:
    """Steps of one and of two processes; bytes of tables and their optimizer in each."""
    lines = [
        "| method, engine, processes | samples/s | beside one process "
        "| bytes held by each | planned |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in json.loads(path.read_text())["rows"].items():
        beside = row.get("speed_beside_fused_1")
        cells = [
            f"`{name}`", f"{row['samples_per_second']:,}",
            "-" if beside is None else f"{beside:.2f}x",
            *(
                ", ".join(f"{size / 1e6:.2f} MB" for size in row[kind])
                for kind in ("held_bytes", "planned_bytes")
            ),
        ]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def _results(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return found


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
