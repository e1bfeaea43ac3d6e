"""Gradual noise scheduling (Lee & Kim 2023): several rounds of DDPM, weak noise first, strong noise last."""

from typing import ClassVar

from hetpure.models.denoisers import Denoiser
from hetpure.purification.rounds import RoundsPurifier

_WEAK = [0.03, 0.03, 0.03, 0.03, 0.05, 0.05]
_WEAK_STEPS = [30, 30, 30, 30, 50, 50]


class GradualNoisePurifier(RoundsPurifier):
    """x <- denoise(sqrt(abar_t) x + sqrt(1 - abar_t) eps) for each t of the schedule, in DDPM steps to x(0).

    The presets hold the defense's schedules (their scripts). The attack process of their scripts has three
    rounds of 1, 1 and 5 steps: t [0.03, 0.05, 0.125] (SVHN 0.08, ImageNet 0.2), steps [1, 1, 5].

    Args:
        denoiser: the noise predictor.
        t: each round's noise level, fraction of T.
        steps: each round's network calls; each divides t * T.
        eta: 1 for DDPM steps, 0 for DDIM.

    Raises:
        ValueError: names the argument that cannot be.
    """

    PRESETS: ClassVar[dict[str, dict]] = {
        "cifar10": {"t": [*_WEAK, 0.125, 0.125], "steps": [*_WEAK_STEPS, 125, 125]},
        "svhn": {"t": [*_WEAK, 0.08, 0.08], "steps": [*_WEAK_STEPS, 80, 80]},
        "imagenet": {"t": [*_WEAK, 0.2, 0.2], "steps": [*_WEAK_STEPS, 200, 200]},
    }
    # Ten runs that vote, in their scripts.
    ENSEMBLE_MODES: ClassVar[dict[str, str]] = dict.fromkeys(PRESETS, "vote")

    def __init__(
        self, denoiser: Denoiser, t: list[float] | None = None, steps: list[int] | None = None, eta: float = 1.0
    ) -> None:
        default = self.PRESETS["cifar10"]
        super().__init__(denoiser, default["t"] if t is None else t, default["steps"] if steps is None else steps, eta)
