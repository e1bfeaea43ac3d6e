"""Guided diffusion model for purification (Wang et al. 2022): DDPM, pulled towards the noised input."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.purification.base import input_gradient
from hetpure.purification.sampling import Sampler, SamplingPurifier, Step, check_level, timestep_grid
from hetpure.schedule import CLEAN

Guide = Literal["mse", "ssim"]
Variance = Literal["large", "small"]


class GuidedPurifier(SamplingPurifier):
    """Rounds of x(t-1) ~ N(mu + s_t Sigma grad(-D(x(t), x_adv(t))), Sigma); x_adv(t) is the input, newly noised.

    mu is DDPM's posterior mean at the clamped prediction of x(0), s_t = a sqrt(1 - abar) / sqrt(abar) with
    a = 3 ``scale`` / (2 ``radius``) (2 ``radius``: the ball on [-1, 1] images), D the mean squared error or 1 - SSIM.
    The gradient of D is taken at x(t) and is itself differentiated, so an attacker's gradient is exact.

    Args:
        denoiser, t: see ``SamplingPurifier``.
        rounds: number of rounds; each starts from the result of the last one and is guided by the input itself.
        guide: D.
        scale: guidance strength. The released 60000 multiplies a mean over a batch of 100 images. Here D is a mean over
            one image, which does not depend on its batch, and 600 is the same strength.
        radius: of the attack's ball for images in [0, 1], the paper's gamma / 255.
        variance: Sigma: beta_t (``large``, the released CIFAR-10 model) or the posterior's (``small``).
        grid_size: grid points of the whole range 0..T-1 (``timestep_grid``). A grid coarser than 1000, every timestep,
            has a larger Sigma and so a stronger pull: lower ``scale`` with it, and use the ``small`` variance, since
            the large one leaves noise.
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
        grid_size: int = 1000,
    ) -> None:
        check_level(denoiser.schedule, t)
        require(rounds >= 1, "rounds", rounds, "1 or more")
        require(0.0 <= scale < math.inf, "scale", scale, "0 or more, finite")
        require(0.0 < radius < math.inf, "radius", radius, "above 0, finite")
        super().__init__(denoiser, [timestep_grid(denoiser.schedule, t, grid_size=grid_size)] * rounds, eta=1.0)
        self.guide, self.variance = guide, variance
        self.strength = 3.0 * scale / (2.0 * radius)

    def start(self, x0: Tensor, grid: Sequence[int], sampler: Sampler) -> Tensor:
        """See ``SamplingPurifier``: as released, noised to timestep t * T and denoised from the one below."""
        return sampler.diffuse(x0, grid[0] + 1)

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        def step(x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
            abar_t, abar_s = self.schedule.alpha_bar(t), self.schedule.alpha_bar(s)
            beta = 1.0 - abar_t / abar_s
            x0_t = self.schedule.predict_x0(x, t, eps).clamp(-1.0, 1.0)
            mean = (math.sqrt(abar_s) * beta * x0_t + math.sqrt(abar_t / abar_s) * (1.0 - abar_s) * x) / (1.0 - abar_t)
            variance = beta if self.variance == "large" else self._posterior(t, s)
            if self.variance == "large" and s == CLEAN:
                # As released, the last step has the posterior variance of the step before.
                variance = self._posterior(2 * t + 1, t)
            target = self.schedule.diffuse(image, t, sampler.draws.normal_like(image, "guide", t))
            guidance = self.strength * math.sqrt((1.0 - abar_t) / abar_t) * self._gradient(x, target)
            mean = mean + variance * guidance
            return mean + math.sqrt(variance) * sampler.draws.normal_like(x, "step", t) if s > CLEAN else mean

        return step

    def _posterior(self, t: int, s: int) -> float:
        return self.schedule.sigma(t, s, 1.0) ** 2

    def _gradient(self, x: Tensor, target: Tensor) -> Tensor:
        """-dD/dx of each image, differentiable in both."""
        if self.guide == "mse":
            return (target - x) * (2.0 / x[0].numel())
        return input_gradient(lambda at: ssim(at, target), x)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) of each pair of images (N, C, H, W), (N,); twice differentiable.

    Gaussian window of 11 pixels with sigma 1.5, zero padding, constants as for images of range 1.
    """
    size, deviation, c1, c2 = 11, 1.5, 0.01**2, 0.03**2
    offsets = torch.arange(size, device=a.device, dtype=a.dtype) - size // 2
    window = (-(offsets**2) / (2 * deviation**2)).exp()
    window = window / window.sum()
    kernel = (window[:, None] * window[None, :]).expand(a.shape[1], 1, size, size)

    def blurred(image: Tensor) -> Tensor:
        return conv2d(image, kernel, padding=size // 2, groups=a.shape[1])

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)
