"""FlowPure (Collaert et al. 2025): along a learnt flow from the noisy image to a clean one."""

import itertools
from typing import ClassVar

from torch import Tensor, nn

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.network import NetworkPurifier, check_output


class FlowPurifier(NetworkPurifier):
    """x(t) = x + (1 - t) sigma eps at t = ``t_start``, then dx/ds = v(x; s) from t to 1 by Euler steps of equal length.

    A flow that was trained on Gaussian noise of sigma begins with that noise; one that was trained on adversarial
    images begins at the image itself (sigma 0), and nothing is random. The result is clamped to [0, 1].

    Args:
        network: the velocity v(x; s) of images x (N, C, H, W) on [-1, 1] at a time s in [0, 1]: as ``FlowField``.
        sigma: standard deviation of the noise at time 0, for images in [0, 1]: that of the training.
        t_start: where the flow begins, from 0 (all of it) to below 1.
        network_calls: Euler steps.
    """

    NETWORK: ClassVar[str] = "the velocity of a flow, such as hetpure train-diffusion exports with objective.name=flow"
    NETWORK_NAME: ClassVar[str | None] = "flow"
    PRESETS: ClassVar[dict[str, dict]] = {
        "gauss_0.15": {},
        "gauss_0.2": {"t_start": 1 / 3},
        "pgd": {"sigma": 0.0, "t_start": 0.0},
        "cw": {"sigma": 0.0, "t_start": 0.0},
    }

    def __init__(self, network: nn.Module, sigma: float = 0.3, t_start: float = 0.5, network_calls: int = 9) -> None:
        require(0.0 <= sigma < 10.0, "sigma", sigma, "0 to below 10, for images in [0, 1]")
        require(0.0 <= t_start < 1.0, "t_start", t_start, "0 to below 1")
        require(network_calls >= 1, "network_calls", network_calls, "1 or more")
        require(not isinstance(network, Denoiser), "network", type(network).__name__, "a flow; this predicts noise")
        super().__init__(network)
        self.noise, self.stochastic = (1.0 - t_start) * sigma, sigma > 0.0
        self.times = [t_start + (1.0 - t_start) * n / network_calls for n in range(network_calls)] + [1.0]
        self.network_calls = network_calls

    def try_network(self, x: Tensor) -> None:
        check_output(self.network(to_signed(x), 0.5), tuple(x.shape))

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        image = self._start(x, draws)
        for s, u in itertools.pairwise(self.times):
            image = image + (u - s) * self.network(image, s)
        return to_unit(image)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"start": to_unit(self._start(x, draws)), **super().views(x, draws)}

    def _start(self, x: Tensor, draws: Draws) -> Tensor:
        """x(t_start), scaled to [-1, 1]."""
        image = to_signed(x)
        if not self.stochastic:
            return image
        return image + 2.0 * self.noise * draws.normal_like(image, "diffuse", 0)
