"""The same noise on every pixel, denoised step by step: DiffPure (Nie et al. 2022) in its discrete form."""

import itertools

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.steps import End, check_eta, check_level, denoise_step, grid


class UniformPurifier(Purifier):
    """Diffuse to t, then denoise along the grid.

    Args:
        denoiser: the noise predictor.
        t: noise level, fraction of T in (0, 1).
        steps: grid points of the whole range (``Schedule.timesteps``).
        eta: 0 for DDIM steps, 1 for DDPM steps.
        end: ``t0`` stops at timestep 0's noise level as the released code does, ``clean`` takes one step more to x(0).

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, denoiser: Denoiser, t: float = 0.1, steps: int = 500, eta: float = 0.0, end: End = "t0") -> None:
        super().__init__()
        check_level("t", t)
        check_eta(eta)
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.eta = eta
        self.timesteps = grid(self.schedule, t, steps, end)

    @property
    def network_calls(self) -> int:
        return len(self.timesteps) - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self._diffuse(to_signed(x), draws)
        for t, s in itertools.pairwise(self.timesteps):
            x_t = denoise_step(self.schedule, self.denoiser, x_t, t, s, self.eta, draws)
        return to_unit(x_t)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"uniform noise": to_unit(self._diffuse(to_signed(x), draws)), **super().views(x, draws)}

    def _diffuse(self, x0: Tensor, draws: Draws) -> Tensor:
        first = self.timesteps[0]
        return self.schedule.diffuse(x0, first, draws.normal_like(x0, "diffuse", first))
