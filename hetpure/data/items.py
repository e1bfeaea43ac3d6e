"""Datasets of dicts over a source, which the loaders iterate, and training augmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from hetpure.data.source import Source


def item(source: Source, index: int) -> dict[str, Any]:
    """One sample: ``image`` (C, H, W) float32 in [0, 1], ``label``, ``index`` = its position in the split."""
    return {"image": source.image(index).float() / source.scale, "label": source.labels[index], "index": index}


class Items(Dataset[dict[str, Any]]):
    """Chosen samples of a source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return item(self.source, self.indices[position])


class AugmentedItems(Dataset[dict[str, Any]]):
    """All samples of a source, addressed by (epoch, index) and augmented under that key."""

    def __init__(self, source: Source, seed: int, flip: bool, crop_padding: int):
        self.source, self.seed, self.flip, self.crop_padding = source, seed, flip, crop_padding

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        sample = item(self.source, index)
        sample["image"] = augment(sample["image"], (self.seed, epoch, index), self.flip, self.crop_padding)
        return sample


def augment(image: Tensor, key: tuple[int, int, int], flip: bool, crop_padding: int) -> Tensor:
    """Random horizontal flip, and random crop of the image padded with zeros; a function of the key alone.

    Args:
        image: (C, H, W).
        key: seed, epoch and index of the sample.
        flip: flip half of the images.
        crop_padding: padding on each side before the crop back to (H, W); 0 for no crop.

    Returns:
        (C, H, W).
    """
    if not flip and not crop_padding:
        return image
    draw = np.random.default_rng(key)
    if flip and draw.random() < 0.5:
        image = image.flip(-1)
    if crop_padding:
        height, width = image.shape[-2:]
        top, left = draw.integers(0, 2 * crop_padding + 1, size=2).tolist()
        image = pad(image, [crop_padding] * 4)[..., top : top + height, left : left + width]
    return image
