"""Heterogeneous noise whose mask is elsewhere: does it matter where the mask is?

python evaluate.py --config benchmarks/mask_controls.yaml
python benchmarks/compare_rows.py runs/mask_controls --less real shuffled --less real other

The classes are purifiers (``purifier.name=benchmarks/mask_controls.py:ShuffledMask``). Each masks as many pixels as the
real mask, in places that have nothing to do with the image.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor

from hetpure import ImageDataModule
from hetpure.noise import Draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier


class ShuffledMask(HeterogeneousPurifier):
    """The real mask with its pixels in another order, the same for all draws of an image.

    Attacker and defender have the same order: it is no secret, as the real mask is none.
    """

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        (mask,) = prepared
        order = _known_to_all(draws).uniform("shuffle", 0, mask.shape[-2:], torch.float64).flatten(1).argsort(dim=1)
        return super().purify(x, draws, mask.flatten(1).gather(1, order).view_as(mask))


class OtherImagesMask(HeterogeneousPurifier):
    """The real mask of another image, one of the first 64 of the lab's; evaluate on images after those.

    All masks are equally large with ``selection: top_fraction`` alone.
    """

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        choice = (_known_to_all(draws).uniform("image", 0, ()) * len(self.masks)).long()
        return super().purify(x, draws, self.masks.to(x)[choice])

    @functools.cached_property
    def masks(self) -> Tensor:
        """The masks of the other images, (64, 1, H, W)."""
        batch = next(iter(ImageDataModule("cifar10_jpeg", batch_size=64, subset=64).prepare().test_dataloader()))
        return self.mask(batch["image"])


def _known_to_all(draws: Draws) -> Draws:
    """Keys that depend on the image alone, for what is neither secret nor noise."""
    return replace(draws, process="mask", draw=torch.zeros_like(draws.draw))
