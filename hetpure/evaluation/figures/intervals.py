"""Means over images with their 95 % intervals."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """[mean, low, high] with Student's 95 % interval; all ends NaN where fewer than two values make none."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean()) if len(x) else float("nan")
    if len(x) < 2:
        return [mean, float("nan"), float("nan")]
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return [mean, mean - half, mean + half]


def geometric_interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """The same of ratios: geometric mean, interval of the mean logarithm."""
    return [float(np.exp(end)) for end in mean_interval(np.log(np.asarray(values, dtype=float)))]
