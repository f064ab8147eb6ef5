"""State-dict keys of every case, as committed JSON: renaming one breaks people's checkpoints.

`python -m tests.contract.golden` (with src on the path) writes the files again.
"""

import json
from pathlib import Path

from compactrec.embeddings import CompressedEmbeddingBagCollection
from tests.cases import METHODS
from tests.methods.base import Case

__all__ = ["FOLDER", "described", "golden"]

FOLDER = Path(__file__).parent / "golden"


def described(case: Case) -> dict[str, str]:
    """Shape and type by state-dict key, in order."""
    state = CompressedEmbeddingBagCollection(case.plan).state_dict()
    return {
        key: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for key, value in state.items()
    }


def golden(method: str) -> dict[str, dict[str, str]]:
    """The committed keys of a method's cases, by case name."""
    found: dict[str, dict[str, str]] = json.loads((FOLDER / f"{method}.json").read_text())
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for row in METHODS:
        keys = {case.name: described(case) for case in row.cases}
        (FOLDER / f"{row.method}.json").write_text(json.dumps(keys, indent=1) + "\n")
