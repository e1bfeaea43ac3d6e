"""AToP (Lin et al. 2024): random transforms, then one call of a trained purifier, whose network the user supplies."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from hetpure.errors import require
from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.network import NetworkPurifier, check_output


class TrainedPurifier(NetworkPurifier):
    """g((1 - m) * clip(x + sigma eps), m): noise, a share of square blocks dropped, then a trained network g.

    As released, the result is the network's whole image, not only its fillings. Rows go through the network one by one,
    because the released generator's attention uses the first row's mask for all rows. The gradient is exact.

    Args:
        network: ``network(x, m)``. x (1, C + 2, H, W) is the image on [-1, 1] with 0 in its gaps, a channel of ones and
            the mask; m (1, 1, H, W) is the mask, 1 in the gaps. It returns the image (1, C, H, W) on [-1, 1], or a
            tuple whose second element is that (the released one: coarse, refined).
        sigma: standard deviation of the noise, for images in [0, 1]; 0 for the paper's RT1.
        missing: share of the blocks that are dropped.
        block: side of a block in pixels; the released 32 is for 256 x 256 images.
    """

    NETWORK: ClassVar[str] = "a trained purifier: an image with gaps on [-1, 1] and its mask to an image"
    network_calls = 1

    def __init__(self, network: nn.Module, sigma: float = 0.25, missing: float = 0.25, block: int = 32) -> None:
        super().__init__(network)
        require(0.0 <= sigma < math.inf, "sigma", sigma, "0 or more, finite")
        require(0.0 <= missing < 1.0, "missing", missing, "0 or more and below 1")
        require(block >= 1, "block", block, "1 or more")
        self.sigma, self.missing, self.block = sigma, missing, block

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        given, mask = self._transformed(x, draws)
        return to_unit(torch.cat([self._restored(given[i : i + 1], mask[i : i + 1]) for i in range(len(x))]))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"noise and gaps": to_unit(self._transformed(x, draws)[0]), **super().views(x, draws)}

    def try_network(self, x: Tensor) -> None:
        height, width = x.shape[2:]
        divides = height % self.block == 0 and width % self.block == 0
        require(divides, "block", self.block, f"a divisor of both sides of the {height}x{width} images")
        self._restored(to_signed(x), torch.zeros_like(x[:, :1]))

    def _restored(self, given: Tensor, mask: Tensor) -> Tensor:
        """The network's image of one row, on [-1, 1]; all NaN if any value is not finite."""
        output = self.network(torch.cat((given, torch.ones_like(mask), mask), dim=1), mask)
        image = output[1] if isinstance(output, tuple | list) and len(output) > 1 else output
        image = check_output(image, tuple(given.shape))
        # Clamping would turn an infinite value into a valid one.
        return torch.where(image.isfinite().all(), image, torch.nan)

    def _transformed(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The noisy image on [-1, 1] with 0 in its gaps, and the mask (N, 1, H, W), 1 in the gaps."""
        noisy = to_signed((x + self.sigma * draws.normal_like(x, "diffuse", 0)).clamp(0.0, 1.0))
        rows, columns = x.shape[2] // self.block, x.shape[3] // self.block
        order = draws.uniform("mask", 0, (rows * columns,)).argsort(dim=1).argsort(dim=1)
        gaps = (order < int(self.missing * rows * columns)).to(x.dtype).view(-1, 1, rows, columns)
        mask = gaps.repeat_interleave(self.block, dim=2).repeat_interleave(self.block, dim=3)
        return noisy * (1.0 - mask), mask
