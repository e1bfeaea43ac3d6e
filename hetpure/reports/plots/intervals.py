"""Means over images with their 95 % intervals."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from hetpure.errors import require


def mean_interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """[mean, low, high] with Student's 95 % interval.

    Raises:
        ConfigError: for fewer than two values.
    """
    x = np.asarray(values, dtype=float)
    require(len(x) >= 2, "images", len(x), "2 or more, because one gives no interval")
    mean = float(x.mean())
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return [mean, mean - half, mean + half]


def geometric_interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """The same of ratios: geometric mean, interval of the mean logarithm."""
    return [float(np.exp(end)) for end in mean_interval(np.log(np.asarray(values, dtype=float)))]
