"""Numba keeps machine code by the file of a loop alone: each file knows what else is in it."""

import hashlib
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="there are no loops to keep")

COMPILED_IN = ("numba_jit.py", "numba_lanes.py", "numba_layout.py", "numba_vectors.py")


@pytest.mark.parametrize("name", ["numba_lookup", "numba_update", "numba_columns", "numba_maps"])
def test_kept_machine_code_is_of_these_sources(name: str) -> None:
    module = import_module(f"compactrec.embeddings.{name}")
    folder = Path(module.__file__ or "").parent
    text = b"".join((folder / part).read_bytes() for part in COMPILED_IN)
    found = hashlib.sha256(text).hexdigest()[:16]
    assert found == module.SOURCES, f"{COMPILED_IN} changed: write SOURCES = {found!r} there"
