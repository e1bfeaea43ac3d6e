"""MimicDiffusion (Song et al. 2024): generation from noise, led to the input by two Manhattan distances."""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.steps import check_eta, walk

Upsampling = Literal["nearest", "bilinear"]


class MimicPurifier(Purifier):
    """DDPM steps, less ``short_range`` d |x(0|t) - x| / dx(0|t) + ``long_range`` d |U x(0|t) - U x| / dx(0|t).

    |.| is the Manhattan distance, a mean over the image's pixels of the sum over channels, and U enlarges by
    ``factor``. Its derivative is a sign, which an input changed by eps does not change wherever x(0|t) is further than
    eps from it: the guidance of the adversarial image mimics that of the clean one. A sign also has no derivative
    but 0: behind it a gradient attack is blind, and the defense looks stronger than it is. So the sign is
    u / sqrt(u^2 + softness^2) here, the derivative of a smoothed distance.

    Args:
        denoiser: the noise predictor.
        t: where generation starts, as a fraction of T: from the input with that much noise; 1: from noise alone, as
            released.
        steps: grid points of the whole range (``walk``).
        eta: 1 for DDPM steps, 0 for DDIM.
        short_range: strength of the guidance by the image as it is. The released 3000 multiplies a mean over a batch of
            16 images; the distance here is one image's: 187.5 is the same.
        long_range: strength of the guidance by the enlarged image.
        factor: of the enlargement.
        upsampling: U. With the released ``nearest`` the two guidances are the same, since it changes no sign.
        high: noise level, fraction of T, below which the guidance acts,
        low: and above which.
        softness: on [-1, 1] images; 0 is the paper's sign.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: float = 1.0,
        steps: int = 100,
        eta: float = 1.0,
        short_range: float = 187.5,
        long_range: float = 187.5,
        factor: int = 4,
        upsampling: Upsampling = "nearest",
        high: float = 0.8,
        low: float = 0.1,
        softness: float = 0.05,
    ) -> None:
        super().__init__()
        check_eta(eta)
        if not 0.0 < t <= 1.0:
            raise ValueError(f"t = {t} must lie in (0, 1]: a fraction of the schedule's T timesteps")
        for name, value in (("short_range", short_range), ("long_range", long_range), ("softness", softness)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name} = {value} must be at least 0 and finite")
        if factor < 1:
            raise ValueError(f"factor = {factor} must be at least 1")
        if upsampling not in ("nearest", "bilinear"):
            raise ValueError(f"upsampling = {upsampling!r} must be nearest or bilinear")
        if not 0.0 <= low < high:
            raise ValueError(f"low = {low} must lie in [0, high = {high})")
        self.denoiser, self.schedule, self.eta = denoiser, denoiser.schedule, eta
        self.timesteps = walk(self.schedule, t, steps)
        self.from_noise = t == 1.0
        self.short_range, self.long_range = short_range, long_range
        self.factor, self.upsampling = factor, upsampling
        self.high, self.low, self.softness = high, low, softness

    @property
    def network_calls(self) -> int:
        return len(self.timesteps) - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        image = to_signed(x)
        x_t = self._start(image, draws)
        for t, s in itertools.pairwise(self.timesteps):
            eps = self.denoiser(x_t, t)
            noise = draws.normal_like(x_t, "step", s) if self.schedule.sigma(t, s, self.eta) > 0.0 else None
            after = self.schedule.ddim_step(x_t, eps, t, s, self.eta, noise)
            if self.low < (t + 1) / self.schedule.T < self.high:
                after = after - self.guidance(self.schedule.predict_x0(x_t, t, eps) - image)
            x_t = after
        return to_unit(x_t)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"first noise": to_unit(self._start(to_signed(x), draws)), **super().views(x, draws)}

    def guidance(self, off: Tensor) -> Tensor:
        """Both guidances for x(0|t) that is ``off`` (N, C, H, W) from the image, without its sqrt(abar) / sqrt(abar).

        The released code takes the derivative at x(t), the predicted noise being constant: 1 / sqrt(abar) times that
        at x(0|t), and multiplies it by sqrt(abar).
        """
        pixels = off[0, 0].numel()
        guidance = self.short_range / pixels * self._direction(off)
        if self.long_range > 0.0:
            rows, columns = (self._enlargement(off, axis) for axis in (-2, -1))
            enlarged = self._direction(rows @ off @ columns.mT)
            guidance = guidance + self.long_range / (pixels * self.factor**2) * (rows.mT @ enlarged @ columns)
        return guidance

    def _start(self, image: Tensor, draws: Draws) -> Tensor:
        first = self.timesteps[0]
        noise = draws.normal_like(image, "diffuse", first)
        return noise if self.from_noise else self.schedule.diffuse(image, first, noise)

    def _direction(self, off: Tensor) -> Tensor:
        return off.sign() if self.softness == 0.0 else off / (off**2 + self.softness**2).sqrt()

    def _enlargement(self, image: Tensor, axis: int) -> Tensor:
        """U along one axis, (factor * d, d): with one such matrix a side, its transpose needs no derivative."""
        unit = torch.eye(image.shape[axis], dtype=image.dtype, device=image.device)[None]
        mode = "linear" if self.upsampling == "bilinear" else "nearest"
        return interpolate(unit, scale_factor=self.factor, mode=mode)[0].mT
