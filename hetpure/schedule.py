"""The VP noise schedule and the exact steps on it: diffusing forward, DDIM and DDPM steps back.

Images x are scaled to [-1, 1] here. A timestep t is an integer in 0..T-1; ``CLEAN`` (-1) stands for the image before
any noise, where abar = 1. All coefficients are Python floats computed in float64.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

CLEAN = -1


@dataclass(frozen=True)
class Schedule:
    """Linear-beta variance-preserving schedule (Ho et al. 2020), beta_t from ``beta_start`` to ``beta_end``.

    Args:
        beta_start: beta at t = 0.
        beta_end: beta at t = T - 1.
        T: number of training timesteps.
    """

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
        """From x(s) to x(t), t >= s, in one draw: the composition of the t - s single steps of eq. (10).

        Mean sqrt(abar_t / abar_s) x(s), variance 1 - abar_t / abar_s.
        """
        if t < s:
            raise ValueError(f"diffusing goes to a noisier timestep: from {s} to {t} does not")
        ratio = self.alpha_bar(t) / self.alpha_bar(s)
        return math.sqrt(ratio) * x + math.sqrt(1.0 - ratio) * noise

    def predict_x0(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """The clean image that x(t) and the predicted noise imply."""
        abar = self.alpha_bar(t)
        return (x - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar)

    def sigma(self, t: int, s: int, eta: float) -> float:
        """Standard deviation of the noise that a step from t to s adds: DDIM's eq. (16).

        eta = 0 is deterministic DDIM, eta = 1 DDPM with the posterior variance (on adjacent timesteps exactly).
        """
        abar_t, abar_s = self.alpha_bar(t), self.alpha_bar(s)
        return eta * math.sqrt((1.0 - abar_s) / (1.0 - abar_t) * (1.0 - abar_t / abar_s))

    def ddim_step(
        self, x: Tensor, eps: Tensor, t: int, s: int, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """One step from x(t) to x(s), s < t, given the predicted noise (eq. 11; Song et al. 2021, eq. 12).

        Args:
            x: x(t), (B, C, H, W).
            eps: predicted noise, like x.
            t: timestep of x.
            s: timestep to reach, ``CLEAN`` for x(0).
            eta: 0 for DDIM, 1 for DDPM.
            noise: standard normal, like x; needed where eta > 0 and the step adds noise.

        Raises:
            ValueError: where s is not below t, or noise is needed and missing.
        """
        if s >= t:
            raise ValueError(f"a denoising step goes to a cleaner timestep: from {t} to {s} does not")
        abar_t, abar_s = self.alpha_bar(t), self.alpha_bar(s)
        sigma = self.sigma(t, s, eta)
        # x(s) = sqrt(abar_s) x0_hat + sqrt(1 - abar_s - sigma^2) eps, collected into one multiply-add over x and eps.
        scale = math.sqrt(abar_s / abar_t)
        out = scale * x + (math.sqrt(max(1.0 - abar_s - sigma**2, 0.0)) - scale * math.sqrt(1.0 - abar_t)) * eps
        if sigma == 0.0:
            return out
        if noise is None:
            raise ValueError(f"a step with eta = {eta} needs noise")
        return out + sigma * noise

    def ddpm_step(self, x: Tensor, eps: Tensor, t: int, noise: Tensor | None = None) -> Tensor:
        """Algorithm 1's printed step t -> t - 1 with posterior variance; t = 0 leads to x(0) and adds no noise."""
        return self.ddim_step(x, eps, t, t - 1, eta=1.0, noise=noise)

    def timesteps(self, t_max: float, steps: int) -> list[int]:
        """Descending grid that starts at t_max: every (T / steps)-th timestep of 0..T-1 up to t_max * T.

        Args:
            t_max: noise level to start from, as a fraction of T, in (0, 1).
            steps: how many grid points the whole range 0..T-1 would have (the released code's ``ddim_steps``).

        Returns:
            Timesteps, first the noisiest, last 0. With T = 1000: (0.2, 500) gives 200, 198, .., 0;
            (0.2, 10) gives 200, 100, 0.

        Raises:
            ValueError: where steps does not divide T, or no grid point lies in (0, t_max * T].
        """
        if steps < 1 or self.T % steps:
            raise ValueError(f"steps = {steps} must divide T = {self.T}")
        if not 0.0 < t_max < 1.0:
            raise ValueError(f"t_max = {t_max} must lie between 0 and 1")
        stride = self.T // steps
        last = round(t_max * self.T)
        if last < stride:
            raise ValueError(
                f"steps = {steps} leaves no grid point in (0, {last}]: at least {math.ceil(self.T / last)}"
            )
        return list(range(last // stride * stride, -1, -stride))
