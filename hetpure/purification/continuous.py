"""The VP-SDE in continuous time (Song et al. 2021), as DiffPure solves it, with the score of a discrete denoiser."""

import math

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.purification.steps import check_level
from hetpure.schedule import Schedule

BETA_MIN, BETA_MAX = 0.1, 20.0
"""beta(t) = BETA_MIN + t (BETA_MAX - BETA_MIN) for t in [0, 1]: T times the discrete schedule's ends."""

END = 1e-5
"""Time at which DiffPure's solvers stop: the score has a pole at 0."""


def beta(time: float) -> float:
    """The rate in dx = -beta x / 2 dt + sqrt(beta) dw."""
    return BETA_MIN + time * (BETA_MAX - BETA_MIN)


def alpha_bar(time: float) -> float:
    """abar(t) = exp(-integral of beta from 0 to t)."""
    return math.exp(-BETA_MIN * time - 0.5 * (BETA_MAX - BETA_MIN) * time**2)


def timestep(schedule: Schedule, time: float) -> int:
    """The discrete timestep with the noise level nearest to a time's: timestep i stands after i + 1 of T steps."""
    return max(round(time * schedule.T) - 1, 0)


def score(schedule: Schedule, denoiser: Denoiser, x: Tensor, time: float) -> Tensor:
    """s(x, t) = -eps(x, t) / sqrt(1 - abar(t)); one network call."""
    return denoiser(x, timestep(schedule, time)) * (-1.0 / math.sqrt(1.0 - alpha_bar(time)))


def times(t: float, steps: int) -> list[float]:
    """Equal steps of about 1 / steps from t down to 0, the last one cut short at ``END``.

    Raises:
        ValueError: for a t outside (0, 1), or steps that leave no step in [0, t].
    """
    check_level("t", t)
    if steps < 1 or round(t * steps) < 1:
        raise ValueError(f"steps = {steps} leaves no step in [0, t]: at least {math.ceil(1.0 / t)}")
    count = round(t * steps)
    return [t * (count - n) / count for n in range(count)] + [END]
