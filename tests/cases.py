"""The case table: one line per registered method. Every contract test runs over all of it."""

import importlib

from tests.methods.base import Case, MethodCases

__all__ = ["CASES", "METHODS", "cases_of"]


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
)

CASES: tuple[Case, ...] = tuple(case for method in METHODS for case in method.cases)
