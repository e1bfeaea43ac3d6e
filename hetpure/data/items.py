"""Datasets of dicts over a source: what the loaders iterate."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from hetpure.data.augment import augment
from hetpure.data.sources import Source


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
