"""PixelDefend (Song et al. 2018): each value to the likeliest within eps, under a PixelCNN that the user brings."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hetpure.noise import Draws
from hetpure.purification.base import to_unit
from hetpure.purification.network import NetworkPurifier, check_answer

_VALUES = 256


class PixelDefendPurifier(NetworkPurifier):
    """x*[i, j, k] <- argmax over z in [x - eps, x + eps] of p(z | x* before it), row by row, 8 bits (Algorithm 1).

    Pixels in raster order, a pixel's channels in theirs, each seeing the purified values before it: one network call
    for each value of the image.

    It has no gradient to follow: images are rounded to 8 bits and values chosen, so the derivative is zero wherever
    there is one, and that is what ``purify`` gives. Attack it by BPDA (``attack.gradient=bpda``).

    Args:
        network: images (N, C, H, W) on [-1, 1], at the 256 values z / 127.5 - 1, to logits (N, 256, C, H, W) over
            each entry's value; an entry's logits must depend on the entries before it alone.
        eps: how far a value may go, in units of images in [0, 1], a whole number of 1/255.
        shape: C, H, W of the images; by default 3, 32, 32.

    Raises:
        ValueError: names the argument that cannot be.
    """

    NETWORK: ClassVar[str] = "a PixelCNN: images on [-1, 1] to logits over the 256 values of every entry"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, network: nn.Module, eps: float = 16 / 255, shape: list[int] | None = None) -> None:
        super().__init__(network)
        shape = [3, 32, 32] if shape is None else shape
        self.reach = round(255 * eps)
        if not 0 <= self.reach < _VALUES or abs(self.reach - 255 * eps) > 1e-6:
            raise ValueError(f"eps = {eps} must be a whole number of 1/255, from 0 to 1")
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape = {shape} must hold three numbers of at least 1: channels, height, width")
        self.shape = tuple(shape)

    @property
    def network_calls(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        given = (255.0 * x).round()
        chosen = given.detach().clone()
        value = torch.arange(_VALUES, device=x.device)
        channels, height, width = self.shape
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    place = (slice(None), channel, row, column)
                    with torch.no_grad():
                        logits = self._logits(chosen / 127.5 - 1.0)[:, :, channel, row, column]
                    within = (value - given.detach()[place][:, None]).abs() <= self.reach
                    best = torch.where(within, logits, -torch.inf).argmax(dim=1).to(x.dtype)
                    chosen[place] = torch.where(logits.isnan().any(dim=1), torch.nan, best)
        # In the graph, so that a gradient is zero and not an error: that of rounding.
        return (given + (chosen - given).detach()) / 255.0

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: what was changed, in units of eps, grey where nothing was."""
        purified = super().views(x, draws)["purified"]
        change = to_unit(255.0 * (purified - x) / max(self.reach, 1))
        return {"change": change, "purified": purified}

    def try_network(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"shape = {list(self.shape)} must be that of the data's images, {list(x.shape[1:])}")
        self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        return check_answer(self.network(x), (len(x), _VALUES, *self.shape))
