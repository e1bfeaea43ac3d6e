"""Guided diffusion model for purification (Wang et al. 2022): DDPM, pulled towards the noised input."""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.ssim import ssim
from hetpure.purification.steps import check_level, walk
from hetpure.schedule import CLEAN

Guide = Literal["mse", "ssim"]
Variance = Literal["large", "small"]


class GuidedPurifier(Purifier):
    """Rounds of x(t-1) ~ N(mu + s_t Sigma grad(-D(x(t), x_adv(t))), Sigma), with x_adv(t) the input noised afresh.

    mu is DDPM's posterior mean at the clamped prediction of x(0), s_t = a sqrt(1 - abar) / sqrt(abar) with
    a = 3 ``scale`` / (2 ``radius``) (2 ``radius``: the ball on [-1, 1] images), D the mean squared error or 1 - SSIM.
    The gradient of D is taken at x(t) and itself differentiated: an attacker's gradient is exact.

    Args:
        denoiser: the noise predictor.
        t: noise level of each round, fraction of T.
        rounds: how often; each from the last one's result, always guided by the input itself.
        guide: D.
        scale: strength. The released 60000 multiplies a mean over a batch of 100 images; D here is a mean over one
            image, so that neighbours play no part: 600 is the same.
        radius: of the attack's ball in [0, 1] units, the paper's gamma / 255.
        variance: Sigma: beta_t (``large``, the released CIFAR-10 model) or the posterior's (``small``).
        steps: grid points of the whole range (``walk``); 1000 is every timestep. A coarser grid's Sigma is larger, and
            so is the pull: lower ``scale`` with it, and take the ``small`` variance (the large one leaves noise).

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: float = 0.036,
        rounds: int = 4,
        guide: Guide = "mse",
        scale: float = 600.0,
        radius: float = 8 / 255,
        variance: Variance = "large",
        steps: int = 1000,
    ) -> None:
        super().__init__()
        check_level("t", t)
        if rounds < 1:
            raise ValueError(f"rounds = {rounds} must be at least 1")
        if guide not in ("mse", "ssim"):
            raise ValueError(f"guide = {guide!r} must be mse or ssim")
        if not 0.0 <= scale < math.inf:
            raise ValueError(f"scale = {scale} must be at least 0 and finite")
        if not 0.0 < radius < math.inf:
            raise ValueError(f"radius = {radius} must be above 0 and finite")
        if variance not in ("large", "small"):
            raise ValueError(f"variance = {variance!r} must be large or small")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.timesteps = walk(self.schedule, t, steps)
        # As released: noised to timestep t * T, denoised from the one below.
        self.first = self.timesteps[0] + 1
        self.rounds, self.guide, self.variance = rounds, guide, variance
        self.strength = 3.0 * scale / (2.0 * radius)

    @property
    def network_calls(self) -> int:
        return self.rounds * (len(self.timesteps) - 1)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        image = to_signed(x)
        x0, T = image, self.schedule.T
        for number in range(self.rounds):
            noise = draws.normal_like(x0, "diffuse", self.first + number * T)
            x_t = self.schedule.diffuse(x0, self.first, noise)
            for t, s in itertools.pairwise(self.timesteps):
                x_t = self._step(x_t, t, s, image, draws, number)
            x0 = x_t
        return to_unit(x0)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        image = to_signed(x)
        noisy = self.schedule.diffuse(image, self.first, draws.normal_like(image, "diffuse", self.first))
        return {"first noise": to_unit(noisy), **super().views(x, draws)}

    def _step(self, x: Tensor, t: int, s: int, image: Tensor, draws: Draws, number: int) -> Tensor:
        key = t + number * self.schedule.T
        abar, below = self.schedule.alpha_bar(t), self.schedule.alpha_bar(s)
        beta = 1.0 - abar / below
        x0 = self.schedule.predict_x0(x, t, self.denoiser(x, t)).clamp(-1.0, 1.0)
        mean = (math.sqrt(below) * beta * x0 + math.sqrt(abar / below) * (1.0 - below) * x) / (1.0 - abar)
        variance = beta if self.variance == "large" else self._posterior(t, s)
        if self.variance == "large" and s == CLEAN:
            # As released: the last step's is the posterior's of the step before.
            variance = self._posterior(2 * t + 1, t)
        target = self.schedule.diffuse(image, t, draws.normal_like(image, "guide", key))
        guidance = self.strength * math.sqrt((1.0 - abar) / abar) * self._gradient(x, target)
        mean = mean + variance * guidance
        return mean + math.sqrt(variance) * draws.normal_like(x, "step", key) if s > CLEAN else mean

    def _posterior(self, t: int, s: int) -> float:
        return self.schedule.sigma(t, s, 1.0) ** 2

    def _gradient(self, x: Tensor, target: Tensor) -> Tensor:
        """-dD/dx of each image, differentiable in both."""
        if self.guide == "mse":
            return (target - x) * (2.0 / x[0].numel())
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if outer and x.requires_grad else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(ssim(at, target).sum(), at, create_graph=outer)
        return gradient
