"""Fixtures of the tests of searches."""

import pytest

from compactrec.embeddings.search import base as search_base
from tests.benchmarks.toy_search import TOY


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of ``toy_search.py`` is registered."""
    monkeypatch.setitem(search_base._SEARCHES, "toy", TOY)
