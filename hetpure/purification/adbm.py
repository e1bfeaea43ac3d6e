"""The sampler of the adversarial diffusion bridge model, ADBM (Li et al. 2025)."""

import math

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.purification.sampling import Sampler, SamplingPurifier, Step, check_level, timestep_grid


class BridgePurifier(SamplingPurifier):
    """Diffuses to t, then few DDIM steps to x(0), each from a prediction x(0|t) that is clamped to [-1, 1].

    The denoiser is to be one that was trained by the bridge's objective (``objective.name=bridge``), whose predictions
    lead from a diffused adversarial image to the clean one. With another one this is DiffPure by DDIM.

    Args:
        denoiser: the noise predictor.
        t: noise level, fraction of T in (0, 1).
        network_calls: DDIM steps, a divisor of t * T.
    """

    NOISE_VIEW = "uniform noise"

    def __init__(self, denoiser: Denoiser, t: float = 0.1, network_calls: int = 5) -> None:
        check_level(denoiser.schedule, t)
        super().__init__(denoiser, [timestep_grid(denoiser.schedule, t, network_calls=network_calls)], 0.0)

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        schedule = self.schedule

        def step(x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
            abar = schedule.alpha_bar(s)
            clean = schedule.predict_x0(x, t, eps).clamp(-1.0, 1.0)
            return math.sqrt(abar) * clean + math.sqrt(1.0 - abar) * eps

        return step
