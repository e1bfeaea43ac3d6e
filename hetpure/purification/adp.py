"""Adaptive denoising purification (Yoon et al. 2021): noise once, then climb the score with adaptive steps."""

import math

import torch
from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed
from hetpure.purification.sampling import check_level

_PROBE = 1e-3
_STEP_MIN, _STEP_MAX = 1e-5, 0.1


class ScorePurifier(Purifier):
    """x <- clip(x + sigma eps), then ``score_steps`` times x <- clip(x + a s(x)), clipped to [0, 1].

    Each image has its own step size a = lambda d / (1 - s(x) . s(x + d s(x)) / s(x) . s(x)) with d = 1e-3, at least
    1e-5 and at most 0.1. An image whose a falls to ``stop`` does not change from then on. The paper's score network is
    trained on many noise levels and evaluated at one; so is the denoiser here: with sqrt(abar) y its input for the
    image y on [-1, 1], s(x) = -2 eps / sqrt((1 - abar) / abar).

    Args:
        sigma: standard deviation of the noise, for images in [0, 1].
        score_steps: number of steps; two network calls each.
        step_size: lambda.
        stop: the released code's ``stopping_alpha``.
        t: noise level of the score, fraction of T. The default is this project's choice: 0.145 is the level of sigma
            0.25.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.25,
        score_steps: int = 10,
        step_size: float = 0.05,
        stop: float = 0.001,
        t: float = 0.145,
    ) -> None:
        super().__init__()
        require(0.0 <= sigma < math.inf, "sigma", sigma, "0 or more, finite")
        require(score_steps >= 1, "score_steps", score_steps, "1 or more")
        require(0.0 < step_size < math.inf, "step_size", step_size, "above 0, finite")
        require(0.0 <= stop < _STEP_MAX, "stop", stop, f"0 or more and below {_STEP_MAX}")
        check_level(denoiser.schedule, t)
        self.denoiser, self.sigma, self.score_steps = denoiser, sigma, score_steps
        self.step_size, self.stop = step_size, stop
        self.t = round(t * denoiser.schedule.T)
        self.abar = denoiser.schedule.alpha_bar(self.t)
        self.network_calls = 2 * score_steps

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density of images (N, C, H, W) in [0, 1] with noise of level t."""
        eps = self.denoiser(math.sqrt(self.abar) * to_signed(x), self.t)
        return eps * (-2.0 / math.sqrt((1.0 - self.abar) / self.abar))

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x = self._noisy(x, draws)
        going = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
        for _ in range(self.score_steps):
            score = self.score(x)
            ahead = self.score(x + _PROBE * score)
            square = (score * score).sum(dim=(1, 2, 3), keepdim=True)
            # 1 - z as one difference: z is nearly 1, and digits would be lost. The guard is for a score of 0
            # everywhere.
            bend = (score * (score - ahead)).sum(dim=(1, 2, 3), keepdim=True) / square.clamp_min(1e-30)
            # If the score does not bend towards 0, the released quotient is negative or infinite; it is clamped below.
            positive = bend > 0.0
            quotient = self.step_size * _PROBE / torch.where(positive, bend, torch.ones_like(bend))
            size = torch.where(positive, quotient, torch.zeros_like(bend)).clamp(_STEP_MIN, _STEP_MAX)
            going = going & (size > self.stop)
            x = (x + going * size * score).clamp(0.0, 1.0)
        return x

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"noise": self._noisy(x, draws), **super().views(x, draws)}

    def _noisy(self, x: Tensor, draws: Draws) -> Tensor:
        return (x + self.sigma * draws.normal_like(x, "diffuse", 0)).clamp(0.0, 1.0)
