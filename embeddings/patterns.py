"""Regular expressions that a user writes over names."""

import re

__all__ = ["check_pattern"]


def check_pattern(pattern: str, kind: str, example: str) -> None:
    """Raise ``ValueError`` unless ``pattern`` compiles; ``kind`` is what it is to match."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is not a regular expression ({error}); write the name of a {kind}, or a "
            f"pattern such as {example!r}"
        ) from None
