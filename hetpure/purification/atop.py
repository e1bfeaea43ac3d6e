"""AToP (Lin et al. 2024): random transforms, then one call of a trained purifier, which the user brings."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.network import NetworkPurifier, check_answer


class TrainedPurifier(NetworkPurifier):
    """g((1 - m) * clip(x + sigma eps), m): noise, a share of square blocks dropped, and what the network makes of it.

    The whole image is the network's, not its fillings alone, as released. Rows go to the network one by one: the
    released generator's attention takes the first row's mask for all rows. Differentiable exactly.

    Args:
        network: ``network(x, m)``, x (1, C + 2, H, W): the image on [-1, 1] with 0 in its gaps, a channel of ones and
            the mask; m (1, 1, H, W): the mask, 1 in the gaps. It gives the image (1, C, H, W) on [-1, 1], or a tuple
            whose second is that (the released one: coarse, refined).
        sigma: standard deviation of the noise, on [0, 1] images; 0 for the paper's RT1.
        missing: share of the blocks that are dropped.
        block: side of a block in pixels; the released 32 is for 256 x 256 images.

    Raises:
        ValueError: names the argument that cannot be.
    """

    NETWORK: ClassVar[str] = "a trained purifier: an image with gaps on [-1, 1] and its mask to an image"

    def __init__(self, network: nn.Module, sigma: float = 0.25, missing: float = 0.25, block: int = 32) -> None:
        super().__init__(network)
        if not 0.0 <= sigma < float("inf"):
            raise ValueError(f"sigma = {sigma} must be at least 0 and finite")
        if not 0.0 <= missing < 1.0:
            raise ValueError(f"missing = {missing} must lie in [0, 1)")
        if block < 1:
            raise ValueError(f"block = {block} must be at least 1")
        self.sigma, self.missing, self.block = sigma, missing, block

    @property
    def network_calls(self) -> int:
        return 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        given, mask = self._transformed(x, draws)
        return to_unit(torch.cat([self._restored(given[i : i + 1], mask[i : i + 1]) for i in range(len(x))]))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the image with noise and gaps (grey: 0 on [-1, 1])."""
        return {"noise and gaps": to_unit(self._transformed(x, draws)[0]), **super().views(x, draws)}

    def try_network(self, x: Tensor) -> None:
        if x.shape[2] % self.block or x.shape[3] % self.block:
            raise ValueError(f"block = {self.block} must divide the images' sides, {x.shape[2]} and {x.shape[3]}")
        self._restored(to_signed(x), torch.zeros_like(x[:, :1]))

    def _restored(self, given: Tensor, mask: Tensor) -> Tensor:
        """The network's image of one row, on [-1, 1]; NaN throughout where any value is not finite."""
        answer = self.network(torch.cat((given, torch.ones_like(mask), mask), dim=1), mask)
        image = answer[1] if isinstance(answer, tuple | list) and len(answer) > 1 else answer
        image = check_answer(image, tuple(given.shape))
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
