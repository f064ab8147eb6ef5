"""Relaxed Bernoulli gates, one number at a time, from their equations."""

import math

__all__ = ["concrete", "gaussian", "hard_concrete", "normal_cdf", "sigmoid"]


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def concrete(a: float, u: float, t: float) -> float:
    """sigmoid((a + ln u - ln(1 - u)) / t)"""
    return sigmoid((a + math.log(u) - math.log(1 - u)) / t)


def hard_concrete(a: float, u: float, t: float) -> float:
    """The concrete gate stretched to (-0.1, 1.1) and clipped to [0, 1]."""
    return min(1.0, max(0.0, concrete(a, u, t) * 1.2 - 0.1))


def gaussian(mu: float, e: float) -> float:
    """mu + e / 2 + 1/2, clipped to [0, 1]."""
    return min(1.0, max(0.0, mu + 0.5 * e + 0.5))
