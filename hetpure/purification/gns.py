"""Gradual noise scheduling (Lee & Kim 2023): several rounds of DDPM, weak noise first, strong noise last."""

from typing import ClassVar

from hetpure.models.denoisers import Denoiser
from hetpure.purification.sampling import RoundsPurifier

_WEAK = [0.03, 0.03, 0.03, 0.03, 0.05, 0.05]
_WEAK_CALLS = [30, 30, 30, 30, 50, 50]


class GradualNoisePurifier(RoundsPurifier):
    """For each t: x <- denoise(sqrt(abar_t) x + sqrt(1 - abar_t) eps), in DDPM steps to x(0).

    The presets are the schedules of the authors' evaluation scripts. The attack process there has three rounds of 1, 1
    and 5 network calls at t [0.03, 0.05, 0.125] (SVHN: last 0.08, ImageNet: last 0.2).

    Args:
        denoiser, eta: see ``SamplingPurifier``.
        t, network_calls: see ``RoundsPurifier``; those of CIFAR-10 by default.
    """

    PRESETS: ClassVar[dict[str, dict]] = {
        "cifar10": {"t": [*_WEAK, 0.125, 0.125], "network_calls": [*_WEAK_CALLS, 125, 125]},
        "svhn": {"t": [*_WEAK, 0.08, 0.08], "network_calls": [*_WEAK_CALLS, 80, 80]},
        "imagenet": {"t": [*_WEAK, 0.2, 0.2], "network_calls": [*_WEAK_CALLS, 200, 200]},
    }
    # The authors' scripts let ten runs vote.
    ENSEMBLE_MODES: ClassVar[dict[str, str]] = dict.fromkeys(PRESETS, "vote")

    def __init__(
        self, denoiser: Denoiser, t: list[float] | None = None, network_calls: list[int] | None = None, eta: float = 1.0
    ) -> None:
        default = self.PRESETS["cifar10"]
        t = default["t"] if t is None else t
        super().__init__(denoiser, t, default["network_calls"] if network_calls is None else network_calls, eta)
