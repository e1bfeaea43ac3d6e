"""What purifiers that walk down the schedule share: the grid of timesteps and one keyed step along it."""

from typing import Literal

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.schedule import CLEAN, Schedule

End = Literal["t0", "clean"]


def grid(schedule: Schedule, t_max: float, steps: int, end: End) -> list[int]:
    """Timesteps from t_max down to 0 (``t0``) or on to x(0) (``clean``).

    Raises:
        ValueError: see ``Schedule.timesteps``; or for an end that is neither.
    """
    if end not in ("t0", "clean"):
        raise ValueError(f"end = {end!r} must be t0 or clean")
    return schedule.timesteps(t_max, steps) + ([CLEAN] if end == "clean" else [])


def walk(schedule: Schedule, t: float, steps: int) -> list[int]:
    """Timesteps of a walk from noise level t down to x(0): n - 1, n - 1 - stride, .., stride - 1, ``CLEAN``.

    n is t * T, rounded down to a multiple of the stride T / ``steps``; with steps = T, every timestep.

    Raises:
        ValueError: where steps does not divide T, or t does not reach one stride.
    """
    if steps < 1 or schedule.T % steps:
        raise ValueError(f"steps = {steps} must divide T = {schedule.T}")
    stride, last = schedule.T // steps, round(t * schedule.T)
    if last < 1:
        raise ValueError(f"t = {t} must reach one timestep")
    if last < stride:
        raise ValueError(f"steps = {steps} leaves no grid point up to {last}: at least {-(-schedule.T // last)}")
    return [*range(last // stride * stride - 1, -1, -stride), CLEAN]


def check_level(name: str, t: float) -> None:
    """Raises ValueError for a noise level that is no fraction of T in (0, 1), or rounds to T, where no timestep is."""
    if not 0.0 < t < 1.0 or round(t * Schedule.T) >= Schedule.T:
        raise ValueError(f"{name} = {t} must lie between 0 and 1: a fraction of the schedule's T timesteps")


def check_eta(eta: float) -> None:
    """Raises ValueError for an eta that is neither DDIM (0), DDPM (1) nor between."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta = {eta} must lie in [0, 1]")


def denoise_step(
    schedule: Schedule, denoiser: Denoiser, x: Tensor, t: int, s: int, eta: float, draws: Draws, round: int = 0
) -> Tensor:
    """x(t) to x(s) with one network call; its noise, if any, is keyed by s (and by the round, where a loop repeats s).

    By s, because a walk reaches each s once a round, while resampling may bring it to the same t twice.

    Args:
        schedule: the schedule.
        denoiser: the network.
        x: x(t), (N, C, H, W), scaled to [-1, 1].
        t: where x is.
        s: where to go, below t.
        eta: 0 DDIM, 1 DDPM.
        draws: keys of the N rows.
        round: which repetition of this timestep it is.
    """
    eps = denoiser(x, t)
    noise = draws.normal_like(x, "step", s + round * schedule.T) if schedule.sigma(t, s, eta) > 0.0 else None
    return schedule.ddim_step(x, eps, t, s, eta, noise)
