"""Denoised smoothing (Salman et al. 2020) with a diffusion model (Carlini et al. 2023): noise once, denoise once."""

import math
from typing import ClassVar

from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.schedule import Schedule


def matching_timestep(schedule: Schedule, sigma: float) -> int:
    """The timestep whose noise, sqrt((1 - abar) / abar) for images on [-1, 1], is nearest to 2 sigma.

    Raises:
        ConfigError: where 2 sigma is below the noise of the first timestep or above that of the last.
    """
    levels = [math.sqrt((1.0 - abar) / abar) for abar in map(schedule.alpha_bar, range(schedule.T))]
    accepted = f"{levels[0] / 2:.4g} to {levels[-1] / 2:.4g}, half the noise of the schedule's first and last timestep"
    require(levels[0] <= 2.0 * sigma <= levels[-1], "sigma", sigma, accepted)
    return min(range(schedule.T), key=lambda t: abs(levels[t] - 2.0 * sigma))


class DenoisedSmoothing(Purifier):
    """x(0|t) of the denoiser at sqrt(abar_t) (x + sigma eps), where t is the timestep of that much noise.

    The noise is that of randomized smoothing (Cohen et al. 2019) to the bit, whatever the timestep, so the majority
    vote over draws can be certified (``certify``). Nothing is clamped before the denoiser.

    Args:
        denoiser: the noise predictor.
        sigma: standard deviation of the noise, for images in [0, 1]. The paper has 0.25, 0.5 and 1.

    Attributes:
        t: the timestep; see ``matching_timestep``.
    """

    ENSEMBLE_MODES: ClassVar[dict[str, str]] = {"": "vote"}

    def __init__(self, denoiser: Denoiser, sigma: float = 0.25) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.sigma = denoiser, denoiser.schedule, sigma
        self.t = matching_timestep(denoiser.schedule, sigma)
        self.network_calls = 1

    @property
    def smoothing_sigma(self) -> float:
        return self.sigma

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = math.sqrt(self.schedule.alpha_bar(self.t)) * self._noisy(x, draws)
        return to_unit(self.schedule.predict_x0(x_t, self.t, self.denoiser(x_t, self.t)))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"noise": to_unit(self._noisy(x, draws)), **super().views(x, draws)}

    def _noisy(self, x: Tensor, draws: Draws) -> Tensor:
        """The image with its noise, scaled to [-1, 1], not clamped."""
        return to_signed(x) + 2.0 * self.sigma * draws.normal_like(x, "diffuse", self.t)
