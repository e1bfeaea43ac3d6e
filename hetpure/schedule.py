"""The variance-preserving noise schedule: diffusion forward, DDIM and DDPM steps back.

Images x are scaled to [-1, 1]. A timestep t is an integer in 0..T-1; ``CLEAN`` (-1) is the image before any noise,
where abar = 1. All coefficients are computed in float64, as Python floats.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

CLEAN = -1


@dataclass(frozen=True)
class Schedule:
    """Variance-preserving schedule (Ho et al. 2020): T timesteps with linear betas."""

    beta_start: float = 1e-4
    beta_end: float = 2e-2
    T: int = 1000

    @cached_property
    def _alpha_bars(self) -> np.ndarray:
        return np.cumprod(1.0 - np.linspace(self.beta_start, self.beta_end, self.T, dtype=np.float64))

    def alpha_bar(self, t: int) -> float:
        """Cumulative product of 1 - beta up to and including t; 1 at ``CLEAN``."""
        if not CLEAN <= t < self.T:
            raise ValueError(f"timestep {t} is outside {CLEAN}..{self.T - 1}")
        return 1.0 if t == CLEAN else float(self._alpha_bars[t])

    def diffuse(self, x0: Tensor, t: int, noise: Tensor) -> Tensor:
        """x(t) = sqrt(abar_t) x(0) + sqrt(1 - abar_t) noise (eqs. 1 and 6)."""
        return self.diffuse_further(x0, CLEAN, t, noise)

    def diffuse_further(self, x: Tensor, s: int, t: int, noise: Tensor) -> Tensor:
        """From x(s) to x(t), t >= s: eq. (10) applied t - s times, with a single noise draw.

        The mean is sqrt(abar_t / abar_s) x(s), the variance 1 - abar_t / abar_s.
        """
        if t < s:
            raise ValueError(f"cannot diffuse from timestep {s} to the cleaner timestep {t}")
        ratio = self.alpha_bar(t) / self.alpha_bar(s)
        return math.sqrt(ratio) * x + math.sqrt(1.0 - ratio) * noise

    def predict_x0(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """The prediction x(0|t) of the clean image, given x(t) and the predicted noise."""
        abar = self.alpha_bar(t)
        return (x - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar)

    def sigma(self, t: int, s: int, eta: float) -> float:
        """Standard deviation of the noise added by a step from t to s (Song et al. 2021, eq. 16).

        eta = 0 is deterministic DDIM. eta = 1 is DDPM with the posterior variance (exactly so for adjacent timesteps).
        """
        abar_t, abar_s = self.alpha_bar(t), self.alpha_bar(s)
        return eta * math.sqrt((1.0 - abar_s) / (1.0 - abar_t) * (1.0 - abar_t / abar_s))

    def ddim_step(
        self, x: Tensor, eps: Tensor, t: int, s: int, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """One step from x(t) to x(s), s < t, given the predicted noise eps (eq. 11; Song et al. 2021, eq. 12).

        s is ``CLEAN`` for x(0). The noise, standard normal like x, is required where ``sigma`` is above 0.
        """
        if s >= t:
            raise ValueError(f"cannot denoise from timestep {t} to timestep {s}, which is not cleaner")
        abar_t, abar_s = self.alpha_bar(t), self.alpha_bar(s)
        sigma = self.sigma(t, s, eta)
        # x(s) = sqrt(abar_s) x(0|t) + sqrt(1 - abar_s - sigma^2) eps, written as one multiply-add of x and eps.
        scale = math.sqrt(abar_s / abar_t)
        out = scale * x + (math.sqrt(max(1.0 - abar_s - sigma**2, 0.0)) - scale * math.sqrt(1.0 - abar_t)) * eps
        if sigma == 0.0:
            return out
        if noise is None:
            raise ValueError(f"a step with eta = {eta} requires noise")
        return out + sigma * noise
