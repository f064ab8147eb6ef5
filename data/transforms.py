"""Numbers as models read them: each transform by name, float64 in and float32 out."""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["Transform", "bucketed", "dense_input", "time_part"]

Transform = Literal["log1p", "log_plus_one", "log_shifted", "bucket", "none"]
TimePart = Literal["hour", "weekday", "weekend"]


def dense_input(values: np.ndarray, transform: str, shift: float = 1.0) -> np.ndarray:
    """Model inputs, float32.

    * `log1p`: log1p(max(v, 0)).
    * `log_plus_one`: log(max(v, 0) + 1) in float32 throughout.
    * `log_shifted`: log(max(v + shift, 1)).
    * `above_minimum`: log(v + shift) in float32; the caller makes v + shift positive.
    * `bucket`: floor(ln(v)^2) where v > 2, else v, as a number.
    * `none`: v.
    """
    if transform == "log_plus_one":
        clamped = np.maximum(values, 0).astype(np.float32)
        return np.asarray(np.log(clamped + np.float32(1)))
    if transform == "above_minimum":
        return np.asarray(np.log((values + shift).astype(np.float32)))
    if transform == "log_shifted":
        return np.asarray(np.log(np.maximum(values + shift, 1.0)), dtype=np.float32)
    if transform == "bucket":
        large = np.floor(np.log(np.maximum(values, 1.0)) ** 2)
        return np.asarray(np.where(values > 2, large, values), dtype=np.float32)
    if transform == "log1p":
        return np.asarray(np.log1p(np.maximum(values, 0)), dtype=np.float32)
    assert transform == "none"
    return np.asarray(values, dtype=np.float32)


def bucketed(number: np.ndarray) -> np.ndarray:
    """Finite numbers -> int64 buckets: floor(ln(v)^2) where v > 2, else the integer part."""
    large = np.floor(np.log(np.maximum(number, 1.0)) ** 2)
    return np.where(number > 2, large, np.trunc(np.maximum(number, -(2.0**62)))).astype(np.int64)


def time_part(stamps: np.ndarray, part: str) -> tuple[np.ndarray, np.ndarray]:
    """A part of times YYMMDDHH (int64, after 2000): its int64 values, and which are no times.

    `hour`: 0 to 23. `weekday`: 0 is Sunday. `weekend`: 1 on Saturday and Sunday, else 0.
    """
    year, month = stamps // 1_000_000, stamps // 10_000 % 100
    day, hour = stamps // 100 % 100, stamps % 100
    wrong = (stamps < 0) | (year > 99) | (month < 1) | (month > 12) | (day < 1) | (hour > 23)
    months = np.where(wrong, 0, (year + 30) * 12 + month - 1).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + np.where(wrong, 0, day - 1).astype("timedelta64[D]")
    wrong = wrong | (dates.astype("datetime64[M]") != months)
    weekday = (dates.astype(np.int64) + 4) % 7
    if part == "hour":
        values = hour
    else:
        values = weekday if part == "weekday" else np.isin(weekday, (0, 6)).astype(np.int64)
    return np.where(wrong, 0, values), wrong
