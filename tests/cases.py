"""The case table: one line per registered method. Every contract test runs over all of it."""

import importlib
from collections.abc import Sequence

import pytest

from compactrec.embeddings import Plan, method_names
from tests.methods.base import Case, MethodCases
from tests.search.derived import derived_cases

__all__ = ["CASES", "METHODS", "SOME", "cases_of", "mixture", "needs_hash"]

SOME = next(name for name in ("hash", "uniform") if name in method_names())
"""A baseline that needs no counts; which one does not matter to the tests that use it."""
needs_hash = pytest.mark.skipif("hash" not in method_names(), reason="speaks of options of hash")


def cases_of(name: str) -> MethodCases:
    """The cases in tests/methods/<name>.py."""
    found: MethodCases = importlib.import_module(f"tests.methods.{name}").METHOD
    return found


METHODS: tuple[MethodCases, ...] = (
    cases_of("full"),
    cases_of("uniform"),
    cases_of("rare"),
    cases_of("hashed"),
    cases_of("compositional"),
    cases_of("mixed"),
    cases_of("unified"),
    cases_of("pruned"),
    cases_of("sparse"),
    cases_of("gated"),
    cases_of("thresholded"),
    cases_of("soft_threshold"),
    cases_of("random_widths"),
)


def mixture(name: str, cases: Sequence[Case]) -> Case:
    """One plan with the features of several, in an order that tears groups apart."""
    plans = [case.plan for case in cases]
    features = [feature for plan in plans for feature in plan.features]
    arrays = {key: array for plan in plans for key, array in plan.arrays.items()}
    groups = tuple(group for plan in plans for group in plan.groups)
    return Case(name, Plan(tuple(features[::2] + features[1::2][::-1]), groups, arrays))


CASES: tuple[Case, ...] = (
    *(case for method in METHODS for case in method.cases),
    *derived_cases(),
    mixture("all_methods_first", [method.cases[0] for method in METHODS]),
    mixture("all_methods_last", [method.cases[-1] for method in METHODS]),
)
