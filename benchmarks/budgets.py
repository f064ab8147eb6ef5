"""Sizes as people write them: `64MB`, `2GiB`, `1/4`, `0.25x`, `25%`, and bytes as people read them.

MB = 10^6 bytes, MiB = 2^20 bytes. A fraction is a fraction of the full tables' serving bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Budget", "format_bytes", "parse_budget", "parse_bytes"]

_UNITS = {"b": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base in (("b", 1000), ("ib", 1024))
    for power, prefix in enumerate("kmgt", start=1)
}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[a-z]+)", re.IGNORECASE)
_PARTS = re.compile(r"(?P<over>\d+)\s*/\s*(?P<under>\d+)x?")
_TIMES = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[x%])", re.IGNORECASE)
_ALLOWED = "a size such as 64MB, 1.5GB or 64MiB, or a part of the full tables such as 1/4 or 0.25x"


@dataclass(frozen=True)
class Budget:
    """Either a number of bytes or a fraction of the full tables' serving bytes."""

    num_bytes: int | None = None
    fraction: Fraction | None = None

    @property
    def label(self) -> str:
        """Short text, the same for every way to write the same budget: `1/4`, `64 MB`."""
        if self.fraction is not None:
            return str(self.fraction)
        return format_bytes(self.num_bytes or 0)

    def resolve(self, full_bytes: int | None) -> int:
        """The budget in bytes.

        Raises ValueError for a fraction when the full tables have no size (an open vocabulary).
        """
        if self.num_bytes is not None:
            return self.num_bytes
        if full_bytes is None or self.fraction is None:
            raise ValueError(
                f"budget {self.label}: the full tables have no size, because a feature has an open "
                "vocabulary; give the budget in bytes, such as 64MB"
            )
        return int(full_bytes * self.fraction)


def parse_bytes(text: str) -> int:
    """Bytes of `64MB`, `1.5 GiB`, `800kB`; a unit is required.

    Raises ValueError when the text is no size, has no unit or is less than one byte.
    """
    match = _SIZE.fullmatch(text.strip().replace("_", ""))
    unit = match["unit"].lower() if match else ""
    if match is None or unit not in _UNITS:
        raise ValueError(
            f"size {text!r} is not understood; write a number and a unit: "
            "B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"
        )
    num_bytes = int(Fraction(match["number"]) * _UNITS[unit])
    if num_bytes < 1:
        raise ValueError(f"size {text!r} is less than one byte; give a larger one")
    return num_bytes


def parse_budget(text: str) -> Budget:
    """A budget from `64MB`, `1/4`, `0.25x` or `25%`.

    Raises ValueError when the text is none of these, or the fraction is not within (0, 1].
    """
    stripped = text.strip()
    fraction: Fraction | None = None
    if match := _PARTS.fullmatch(stripped):
        if int(match["under"]) == 0:
            raise ValueError(f"budget {text!r} divides by zero; write {_ALLOWED}")
        fraction = Fraction(int(match["over"]), int(match["under"]))
    elif match := _TIMES.fullmatch(stripped):
        fraction = Fraction(match["number"]) / (100 if match["unit"] == "%" else 1)
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(
                f"budget {text!r} is {float(fraction):g} times the full tables; a fraction must be "
                "above 0 and at most 1"
            )
        return Budget(fraction=fraction)
    if re.fullmatch(r"[\d._,]+", stripped):
        raise ValueError(f"budget {text!r} has no unit; write {_ALLOWED}")
    try:
        return Budget(num_bytes=parse_bytes(stripped))
    except ValueError as error:
        raise ValueError(f"budget {text!r} is not understood; write {_ALLOWED}") from error


def format_bytes(num_bytes: float) -> str:
    """Three significant digits with a decimal unit: `950 B`, `64 MB`, `1.44 GB`."""
    value, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    text = f"{value:.0f}" if value >= 99.95 or unit == "B" else f"{value:.3g}"
    return f"{text} {unit}"
