"""FastDiffPure: one-step denoising twice, the second time pulled towards the first's result."""

import math
from typing import ClassVar

from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.sampling import check_level


class FastPurifier(Purifier):
    """A one-step prediction guides one DDPM step from fresh noise, whose result is predicted in one step again.

    With x^ the clamped prediction x(0|t) of the image x at noise level t, and x(t), x^(t) noised alike:
    z ~ N(mu(x(t)) - S Sigma grad |x(t) - x^(t)|^2, Sigma), S = scale sqrt(1 - abar) / sqrt(abar), mu and Sigma the
    posterior's at the clamped x(0|t). The result is the clamped prediction from z, as released at t itself, not t - 1.
    The guidance is differentiated, so an attacker's gradient is exact.

    Args:
        denoiser: the noise predictor.
        t: noise level, fraction of T.
        scale: guidance strength, as released for guided_diffusion's linear schedule.
    """

    PRESETS: ClassVar[dict[str, dict]] = {"cifar10": {}, "imagenet": {"t": 0.1, "scale": 2000.0}}

    def __init__(self, denoiser: Denoiser, t: float = 0.048, scale: float = 6500.0) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        check_level(self.schedule, t)
        require(round(t * self.schedule.T) >= 1, "t", t, f"{1 / self.schedule.T:g} or more")
        require(0.0 <= scale < math.inf, "scale", scale, "0 or more, finite")
        self.t, self.scale, self.network_calls = round(t * self.schedule.T), scale, 3

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        image = to_signed(x)
        first = self._predicted(self._diffuse(image, draws))
        noise = draws.normal_like(image, "guide", self.t)
        x_t, towards = (self.schedule.diffuse(y, self.t, noise) for y in (image, first))
        abar = self.schedule.alpha_bar(self.t)
        # The noise of the step whose prediction is clamped: with it, the DDIM step for eta = 1 is DDPM's posterior.
        eps = (x_t - math.sqrt(abar) * self._predicted(x_t)) / math.sqrt(1.0 - abar)
        fresh = draws.normal_like(image, "step", self.t)
        z = self.schedule.ddim_step(x_t, eps, self.t, self.t - 1, 1.0, fresh)
        variance = self.schedule.sigma(self.t, self.t - 1, 1.0) ** 2
        z = z - self.scale * math.sqrt((1.0 - abar) / abar) * variance * 2.0 * (x_t - towards)
        return to_unit(self._predicted(z))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        noisy = self._diffuse(to_signed(x), draws)
        return {"first noise": to_unit(noisy), "guide": to_unit(self._predicted(noisy)), **super().views(x, draws)}

    def _diffuse(self, image: Tensor, draws: Draws) -> Tensor:
        return self.schedule.diffuse(image, self.t, draws.normal_like(image, "diffuse", self.t))

    def _predicted(self, x: Tensor) -> Tensor:
        return self.schedule.predict_x0(x, self.t, self.denoiser(x, self.t)).clamp(-1.0, 1.0)
