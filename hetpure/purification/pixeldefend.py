"""PixelDefend (Song et al. 2018): the likeliest values within eps, under a PixelCNN that the user supplies."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from hetpure.errors import require
from hetpure.noise import Draws
from hetpure.purification.base import to_unit
from hetpure.purification.network import NetworkPurifier, check_output

_VALUES = 256


class PixelDefendPurifier(NetworkPurifier):
    """x*[i, j, k] <- argmax over z in [x - eps, x + eps] of p(z | x* before it), in 8 bits (Algorithm 1).

    Pixels are visited in raster order, with the channels of a pixel in order. Each value depends on the purified values
    before it, so every value of the image costs one network call. Images are rounded to 8 bits and values are chosen,
    so the derivative is zero wherever it exists: attack it by BPDA (``attack.gradient=bpda``).

    Args:
        network: images (N, C, H, W) on [-1, 1], at the 256 values z / 127.5 - 1, to logits (N, 256, C, H, W) over each
            entry's value; an entry's logits may depend only on the entries before it.
        eps: largest change of a value, for images in [0, 1]; a whole number of 1/255.
        shape: C, H, W of the images; by default 3, 32, 32.
    """

    NETWORK: ClassVar[str] = "a PixelCNN: images on [-1, 1] to logits over the 256 values of every entry"
    stochastic: bool = False
    differentiable: ClassVar[bool] = False

    def __init__(self, network: nn.Module, eps: float = 16 / 255, shape: list[int] | None = None) -> None:
        super().__init__(network)
        shape = [3, 32, 32] if shape is None else shape
        whole = 0.0 <= eps <= 1.0 and abs(round(255 * eps) - 255 * eps) <= 1e-6
        require(whole, "eps", eps, "a whole number of 1/255, from 0 to 1")
        sizes = len(shape) == 3 and min(shape) >= 1
        require(sizes, "shape", shape, "three numbers of 1 or more: channels, height, width")
        self.reach, self.shape, self.network_calls = round(255 * eps), tuple(shape), math.prod(shape)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        given = (255.0 * x).round()
        chosen = given.detach().clone()
        value = torch.arange(_VALUES, device=x.device)
        channels, height, width = self.shape
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    entry = (slice(None), channel, row, column)
                    with torch.no_grad():
                        logits = self._logits(chosen / 127.5 - 1.0)[:, :, channel, row, column]
                    within = (value - given.detach()[entry][:, None]).abs() <= self.reach
                    best = torch.where(within, logits, -torch.inf).argmax(dim=1).to(x.dtype)
                    chosen[entry] = torch.where(logits.isnan().any(dim=1), torch.nan, best)
        # The rounded input stays in the graph, so that the gradient is zero instead of an error.
        return (given + (chosen - given).detach()) / 255.0

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the change in units of eps; grey is no change."""
        purified = super().views(x, draws)["purified"]
        change = to_unit(255.0 * (purified - x) / max(self.reach, 1))
        return {"change": change, "purified": purified}

    def try_network(self, x: Tensor) -> None:
        accepted = f"the shape of the data's images, {list(x.shape[1:])}"
        require(tuple(x.shape[1:]) == self.shape, "shape", list(self.shape), accepted)
        self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        return check_output(self.network(x), (len(x), _VALUES, *self.shape))
