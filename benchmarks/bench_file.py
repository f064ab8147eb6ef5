"""The result file of a speed benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path

from compactrec.benchmarks.environment import describe_environment

__all__ = ["write_bench"]


def write_bench(path: Path | None, num_threads: int, found: Mapping[str, object]) -> None:
    """Write the environment and what was found as JSON; nothing where ``path`` is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": describe_environment(num_threads), **found}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
