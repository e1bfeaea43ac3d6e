"""Adaptive denoising purification (Yoon et al. 2021): noise once, then climb the score with adaptive steps."""

import math

import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed
from hetpure.purification.steps import check_level

_PROBE = 1e-3
_STEP_MIN, _STEP_MAX = 1e-5, 0.1


class ScorePurifier(Purifier):
    """x <- clip(x + sigma eps), then ``steps`` times x <- clip(x + a s(x)), clipped to [0, 1].

    a = lambda d / (1 - s(x) . s(x + d s(x)) / s(x) . s(x)) with d = 1e-3, at least 1e-5 and at most 0.1: a step for
    each image; one whose a falls to ``stop`` stands still from then on. The paper's score network, trained on many
    noise levels, is asked at one; so is the denoiser: with sqrt(abar) y its input for the image y on [-1, 1],
    s(x) = -2 eps / sqrt((1 - abar) / abar).

    Args:
        denoiser: the noise predictor.
        sigma: standard deviation of the noise, on [0, 1] images.
        steps: steps; two network calls each.
        step_size: lambda.
        stop: the released code's ``stopping_alpha``.
        t: level of the score, fraction of T: this project's choice, 0.145 being the level of sigma = 0.25.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.25,
        steps: int = 10,
        step_size: float = 0.05,
        stop: float = 0.001,
        t: float = 0.145,
    ) -> None:
        super().__init__()
        if not 0.0 <= sigma < math.inf:
            raise ValueError(f"sigma = {sigma} must be at least 0 and finite")
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        if not 0.0 < step_size < math.inf:
            raise ValueError(f"step_size = {step_size} must be above 0 and finite")
        if not 0.0 <= stop < _STEP_MAX:
            raise ValueError(f"stop = {stop} must lie in [0, {_STEP_MAX})")
        check_level("t", t)
        self.denoiser = denoiser
        self.sigma, self.steps, self.step_size, self.stop = sigma, steps, step_size, stop
        schedule = denoiser.schedule
        self.t = min(round(t * schedule.T), schedule.T - 1)
        self.abar = schedule.alpha_bar(self.t)

    @property
    def network_calls(self) -> int:
        return 2 * self.steps

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density of images (N, C, H, W) in [0, 1] with noise of level t."""
        eps = self.denoiser(math.sqrt(self.abar) * to_signed(x), self.t)
        return eps * (-2.0 / math.sqrt((1.0 - self.abar) / self.abar))

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x = self._noisy(x, draws)
        going = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            score = self.score(x)
            ahead = self.score(x + _PROBE * score)
            square = (score * score).sum(dim=(1, 2, 3), keepdim=True)
            # 1 - z as one difference, which loses no digits: z is nearly 1. The guard is for a score of 0 everywhere.
            bend = (score * (score - ahead)).sum(dim=(1, 2, 3), keepdim=True) / square.clamp_min(1e-30)
            # Where the score does not bend towards 0, the released quotient is negative (or infinite): see the clamp.
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
