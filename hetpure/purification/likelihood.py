"""Likelihood maximisation (Chen et al. 2024): gradient steps on the image towards a lower denoising loss."""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser, Recomputed
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, RecomputedSlope, to_signed, to_unit
from hetpure.purification.sampling import check_level

Update = Literal["sign", "adam"]

_BETA1, _BETA2, _GUARD = 0.9, 0.999, 1e-8
"""Adam's defaults."""


class LikelihoodPurifier(Purifier):
    """Lowers the ELBO's term mean |D(x(t), t) - x|^2 in x by ``ascent_steps`` steps in an Linf ball around the image.

    D is the denoiser's prediction x(0|t) of the image with fresh noise; the levels t rise evenly from ``t_low`` to
    ``t_high``, one for each step. With g the gradient, preset ``ball`` is the authors' sign update:
    m <- momentum m - g / |g|_1, x <- x + step_size sign(m). ``released`` is their Adam without a ball. Both project
    onto the ball after each step, and clamp to [0, 1] at the end.

    The gradient is exact. A sign's derivative is zero, so that with ``sign`` the gradient is the identity, but for
    pixels clamped at the end. With ``adam`` it goes through the steps' gradients, with the denoiser's second
    derivatives; each step is recomputed in the backward pass, so memory is that of one step. The authors attack both by
    the identity (BPDA), which is much weaker for ``adam``.

    Args:
        denoiser: the noise predictor; called with its gradient, and twice differentiable for ``adam``.
        ascent_steps: number of steps, each with one network call and its gradient.
        step_size: of a step, for images in [0, 1]; Adam's learning rate.
        eps: radius of the ball, for images in [0, 1]; 1 is no ball.
        update: ``sign`` or ``adam``.
        momentum: of ``sign``; Adam has its own.
        t_low: lowest noise level, fraction of T; 0.117 is sigma 0.4 on [-1, 1].
        t_high: highest noise level, fraction of T; 0.17 is sigma 0.6 on [-1, 1].
    """

    PRESETS: ClassVar[dict[str, dict]] = {"ball": {}, "released": {"update": "adam", "step_size": 0.05, "eps": 1.0}}

    def __init__(
        self,
        denoiser: Denoiser,
        ascent_steps: int = 5,
        step_size: float = 1.6 / 255,
        eps: float = 8 / 255,
        update: Update = "sign",
        momentum: float = 1.0,
        t_low: float = 0.117,
        t_high: float = 0.17,
    ) -> None:
        super().__init__()
        require(ascent_steps >= 1, "ascent_steps", ascent_steps, "1 or more")
        require(0.0 < step_size < math.inf, "step_size", step_size, "above 0, finite")
        require(0.0 < eps <= 1.0, "eps", eps, "above 0, at most 1")
        require(0.0 <= momentum <= 1.0, "momentum", momentum, "0 to 1")
        schedule = denoiser.schedule
        check_level(schedule, t_low, "t_low")
        check_level(schedule, t_high, "t_high")
        require(t_low <= t_high, "t_low", t_low, f"at most t_high = {t_high}", "t_high")
        # Its call cannot be differentiated twice; here each step as a whole is recomputed.
        self.denoiser = denoiser.denoiser if isinstance(denoiser, Recomputed) else denoiser
        self.schedule = schedule
        self.levels = [
            round((t_low + (k + 0.5) / ascent_steps * (t_high - t_low)) * schedule.T) for k in range(ascent_steps)
        ]
        self.network_calls = ascent_steps
        self.step_size, self.eps, self.update, self.momentum = step_size, eps, update, momentum

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        image = to_signed(x)
        climb = self._by_sign if self.update == "sign" else self._by_adam
        return to_unit(climb(image, [draws.normal_like(image, "likelihood", k) for k in range(len(self.levels))]))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the first step's noisy image, and the change in units of eps, where grey is none."""
        image = to_signed(x)
        noisy = self.schedule.diffuse(image, self.levels[0], draws.normal_like(image, "likelihood", 0))
        purified = super().views(x, draws)["purified"]
        return {"first noise": to_unit(noisy), "change": to_unit((purified - x) / self.eps), "purified": purified}

    def slope(self, x: Tensor, differentiable: bool, noise: Tensor, t: int) -> Tensor:
        """Gradient of each image's mean |D(x(t), t) - x|^2 at x (N, C, H, W) on [-1, 1]; with its graph if asked."""
        # Neither fused attention nor what torch.compile makes of a network has second derivatives.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            x = x if differentiable else x.detach().requires_grad_()
            x_t = self.schedule.diffuse(x, t, noise)
            off = self.schedule.predict_x0(x_t, t, self.denoiser(x_t, t)) - x
            (slope,) = torch.autograd.grad((off**2).mean(dim=(1, 2, 3)).sum(), x, create_graph=differentiable)
        return slope

    def _by_sign(self, image: Tensor, noises: list[Tensor]) -> Tensor:
        x, m = image, torch.zeros_like(image)
        for t, noise in zip(self.levels, noises, strict=True):
            slope = self.slope(x, False, noise, t)
            m = self.momentum * m - slope / slope.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
            x = self._projected(x + 2.0 * self.step_size * m.sign(), image)
        return x

    def _by_adam(self, image: Tensor, noises: list[Tensor]) -> Tensor:
        x, m, v = image, torch.zeros_like(image), torch.zeros_like(image)
        for k, (t, noise) in enumerate(zip(self.levels, noises, strict=True), start=1):
            slope = RecomputedSlope.apply(x, x.detach(), partial(self.slope, noise=noise, t=t))
            assert isinstance(slope, Tensor)
            m = _BETA1 * m + (1.0 - _BETA1) * slope
            v = _BETA2 * v + (1.0 - _BETA2) * slope**2
            # The guard within the root is for a gradient of 0, where the root has no derivative.
            root = (v / (1.0 - _BETA2**k) + 1e-30).sqrt()
            x = self._projected(x - 2.0 * self.step_size * m / (1.0 - _BETA1**k) / (root + _GUARD), image)
        return x

    def _projected(self, x: Tensor, image: Tensor) -> Tensor:
        return image + (x - image).clamp(-2.0 * self.eps, 2.0 * self.eps)
