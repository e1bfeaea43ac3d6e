"""MimicDiffusion (Song et al. 2024): generation from noise, led to the input by two Manhattan distances."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.purification.sampling import Sampler, SamplingPurifier, Step, timestep_grid

Upsampling = Literal["nearest", "bilinear"]


class MimicPurifier(SamplingPurifier):
    """DDPM steps, less ``short_range`` d |x(0|t) - x| / dx(0|t) + ``long_range`` d |U x(0|t) - U x| / dx(0|t).

    |.| is the Manhattan distance, a mean over the image's pixels of the sum over channels, and U enlarges by
    ``factor``. Its derivative is a sign, which a change of the input by eps leaves as it is wherever x(0|t) is further
    than eps from it: so the guidance of the adversarial image mimics that of the clean one. But a sign's own derivative
    is 0 almost everywhere, so a gradient attack sees nothing behind it, and the defense looks stronger than it is. Here
    the sign is u / sqrt(u^2 + softness^2), the derivative of a smoothed distance.

    Args:
        denoiser, grid_size, eta: see ``SamplingPurifier``.
        t: where generation starts, fraction of T in (0, 1]: from the input with that much noise; 1, as released: from
            noise alone.
        short_range: strength of the guidance by the image itself. The released 3000 multiplies a mean over a batch of
            16 images. Here the distance is one image's, and 187.5 is the same strength.
        long_range: strength of the guidance by the enlarged image.
        factor: of the enlargement.
        upsampling: U. With the released ``nearest`` the two guidances are the same, since it changes no sign.
        high: noise level, fraction of T, below which the guidance acts.
        low: noise level above which it acts.
        softness: on [-1, 1] images; 0 is the paper's sign.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: float = 1.0,
        grid_size: int = 100,
        eta: float = 1.0,
        short_range: float = 187.5,
        long_range: float = 187.5,
        factor: int = 4,
        upsampling: Upsampling = "nearest",
        high: float = 0.8,
        low: float = 0.1,
        softness: float = 0.05,
    ) -> None:
        accepted = f"above 0, at most 1: a fraction of the schedule's {denoiser.schedule.T} timesteps"
        require(0.0 < t <= 1.0, "t", t, accepted)
        super().__init__(denoiser, [timestep_grid(denoiser.schedule, t, grid_size=grid_size)], eta)
        for name, value in (("short_range", short_range), ("long_range", long_range), ("softness", softness)):
            require(0.0 <= value < math.inf, name, value, "0 or more, finite")
        require(factor >= 1, "factor", factor, "1 or more")
        require(0.0 <= low < high, "low", low, f"0 or more and below high = {high}", "high")
        self.from_noise = t == 1.0
        self.short_range, self.long_range = short_range, long_range
        self.factor, self.upsampling = factor, upsampling
        self.high, self.low, self.softness = high, low, softness

    def start(self, x0: Tensor, grid: Sequence[int], sampler: Sampler) -> Tensor:
        if self.from_noise:
            return sampler.draws.normal_like(x0, "diffuse", grid[0])
        return super().start(x0, grid, sampler)

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        def step(x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
            x_s = sampler.step(x, eps, t, s)
            if self.low < (t + 1) / self.schedule.T < self.high:
                x_s = x_s - self.guidance(self.schedule.predict_x0(x, t, eps) - image)
            return x_s

        return step

    def guidance(self, off: Tensor) -> Tensor:
        """Both guidances, like ``off`` (N, C, H, W), the difference of x(0|t) from the image.

        The released code takes the derivative at x(t) with the predicted noise held constant, which is that at x(0|t)
        times 1 / sqrt(abar), and multiplies it by sqrt(abar). The two factors cancel and are left out.
        """
        pixels = off[0, 0].numel()
        guidance = self.short_range / pixels * self._direction(off)
        if self.long_range > 0.0:
            rows, columns = (self._enlargement(off, axis) for axis in (-2, -1))
            enlarged = self._direction(rows @ off @ columns.mT)
            guidance = guidance + self.long_range / (pixels * self.factor**2) * (rows.mT @ enlarged @ columns)
        return guidance

    def _direction(self, off: Tensor) -> Tensor:
        return off.sign() if self.softness == 0.0 else off / (off**2 + self.softness**2).sqrt()

    def _enlargement(self, image: Tensor, axis: int) -> Tensor:
        """U along one axis as a matrix (factor * d, d), whose transpose is the derivative of the enlargement."""
        unit = torch.eye(image.shape[axis], dtype=image.dtype, device=image.device)[None]
        mode = "linear" if self.upsampling == "bilinear" else "nearest"
        return interpolate(unit, scale_factor=self.factor, mode=mode)[0].mT
