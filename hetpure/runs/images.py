"""Pictures for people to look at, kept in a run folder with 8 bits per value and compressed without loss.

The adversarial images as evaluated, float32, lie beside the records instead.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hetpure.runs.files import one_line, write_whole

T = TypeVar("T")

MAPS = ("attention map", "mask")
"""Panels that are maps over the image, not images."""


@dataclass(frozen=True)
class Pictures:
    """The steps of some images through attack and defense."""

    # By sample index, then by heading in the order of the steps: uint8 (H, W, C), C 1 or 3.
    panels: Mapping[int, Mapping[str, np.ndarray]]
    amplification: float  # of the panel "perturbation"


@dataclass(frozen=True)
class Samples:
    """The samples of a run."""

    indices: Sequence[int]  # positions in the dataset split, in the order of the subset
    classes: Sequence[str]  # names
    clean: Mapping[int, np.ndarray]  # small images of the first samples by index: uint8 (H, W, C)


def is_map(heading: str) -> bool:
    """Whether a panel is a map over the image, shown in false colours, and not an image."""
    return heading in MAPS or heading.startswith("block ")


def to_pixels(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] to uint8 (H, W, C)."""
    return np.moveaxis((image.astype(np.float32).clip(0.0, 1.0) * 255.0).round().astype(np.uint8), 0, -1)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The image (C, H, W), averaged down to ``side`` pixels on its longest side; smaller ones are unchanged."""
    longest = max(image.shape[1:])
    if longest <= side:
        return image
    for axis in (1, 2):
        length = image.shape[axis]
        size = max(round(length * side / longest), 1)
        bins = [range(k * length // size, -(-(k + 1) * length // size)) for k in range(size)]
        image = np.stack([image.take(pixels, axis).mean(axis) for pixels in bins], axis)
    return image


def save_pictures(pictures: Pictures, file: Path) -> None:
    """Saves pictures, all with the same headings.

    Raises:
        OSError: if the file cannot be written; the old one stays.
    """
    samples = list(pictures.panels.values())
    names = list(samples[0]) if samples else []
    _save(
        file,
        index=np.array(list(pictures.panels), dtype=np.int64),
        names=np.array(names, dtype=np.str_),
        amplification=np.array(pictures.amplification),
        **{f"panel{k}": np.stack([panels[name] for panels in samples]) for k, name in enumerate(names)},
    )


def load_pictures(file: Path) -> Pictures:
    """Loads what ``save_pictures`` saved.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is damaged or something else.
    """

    def parse(content: Mapping[str, np.ndarray]) -> Pictures:
        panels = {name: content[f"panel{k}"] for k, name in enumerate(content["names"].tolist())}
        indices = content["index"].tolist()
        by_index = {index: {name: images[i] for name, images in panels.items()} for i, index in enumerate(indices)}
        return Pictures(by_index, float(content["amplification"]))

    return _load(file, parse)


def save_samples(samples: Samples, file: Path) -> None:
    """Saves samples; those with clean images are the first of ``indices``, and the images have the same shape.

    Raises:
        OSError: if the file cannot be written.
    """
    clean = [samples.clean[index] for index in samples.indices[: len(samples.clean)]]
    _save(
        file,
        indices=np.array(samples.indices, dtype=np.int64),
        classes=np.array(samples.classes, dtype=np.str_),
        clean=np.stack(clean) if clean else np.zeros((0, 1, 1, 1), np.uint8),
    )


def load_samples(file: Path) -> Samples:
    """Loads what ``save_samples`` saved; raises as ``load_pictures`` does."""

    def parse(content: Mapping[str, np.ndarray]) -> Samples:
        indices = content["indices"].tolist()
        return Samples(indices, content["classes"].tolist(), dict(zip(indices, content["clean"], strict=False)))

    return _load(file, parse)


def _save(file: Path, **arrays: np.ndarray) -> None:
    memory = io.BytesIO()
    np.savez_compressed(memory, allow_pickle=False, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, memory.getvalue())


def _load(file: Path, parse: Callable[[Mapping[str, np.ndarray]], T]) -> T:
    content = io.BytesIO(file.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as archive:
            return parse(dict(archive))
    except Exception as error:  # zipfile, zlib and numpy raise their own
        raise ValueError(f"the file is damaged: {one_line(error)}") from None
