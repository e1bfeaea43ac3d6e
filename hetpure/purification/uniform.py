"""Uniform noise, denoised step by step: DiffPure (Nie et al. 2022) in its discrete form."""

from typing import ClassVar, Literal

from hetpure.models.denoisers import Denoiser
from hetpure.purification.sampling import SamplingPurifier, check_level, timestep_grid
from hetpure.schedule import CLEAN, Schedule

End = Literal["t0", "clean"]


def released_grid(schedule: Schedule, t: float, grid_size: int, end: End, name: str = "t") -> list[int]:
    """The released code's timesteps: from t * T down to 0 (``t0``), or one step further to x(0) (``clean``)."""
    grid = timestep_grid(schedule, t, grid_size=grid_size, shift=0, name=name)
    return [*grid, CLEAN] if end == "clean" else grid


class UniformPurifier(SamplingPurifier):
    """Diffuses to t, then denoises along the grid.

    Args:
        denoiser, t, grid_size, eta: see ``SamplingPurifier``.
        end: ``t0`` stops at timestep 0's noise level as the released code does, ``clean`` takes one more step to x(0).
    """

    NOISE_VIEW: ClassVar[str] = "uniform noise"

    def __init__(
        self, denoiser: Denoiser, t: float = 0.1, grid_size: int = 500, eta: float = 0.0, end: End = "t0"
    ) -> None:
        check_level(denoiser.schedule, t)
        super().__init__(denoiser, [released_grid(denoiser.schedule, t, grid_size, end)], eta)
