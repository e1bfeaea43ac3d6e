"""Pixels for people to look at, kept in a run's folder: 8 bits a value, compressed without loss.

What was evaluated is not here: adversarial images lie beside the records as the float32 values that they are.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetpure.runs.files import write_whole

MAPS = ("attention map", "mask")
"""Panels that are maps over the image, not images."""


@dataclass(frozen=True)
class Pictures:
    """The steps of some images through attack and defense.

    Attributes:
        panels: by sample index, by heading in the order of events: uint8 (H, W, C), C 1 or 3.
        amplification: of the panel ``perturbation``.
    """

    panels: Mapping[int, Mapping[str, np.ndarray]]
    amplification: float


@dataclass(frozen=True)
class Samples:
    """What the samples of a run are.

    Attributes:
        indices: positions in the dataset split, in the order of the subset.
        classes: names of the classes.
        clean: by index, of the first samples: uint8 (H, W, C).
    """

    indices: Sequence[int]
    classes: Sequence[str]
    clean: Mapping[int, np.ndarray]


def is_map(heading: str) -> bool:
    """Whether a panel is a map over the image (shown in colours of its own), not an image."""
    return heading in MAPS or heading.startswith("block ")


def to_pixels(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] to uint8 (H, W, C)."""
    return np.moveaxis((image.astype(np.float32).clip(0.0, 1.0) * 255.0).round().astype(np.uint8), 0, -1)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The image (C, H, W), with its longest side brought down to ``side`` by averaging; small ones as they are."""
    longest = max(image.shape[1:])
    if longest <= side:
        return image
    for axis in (1, 2):
        length = image.shape[axis]
        size = max(round(length * side / longest), 1)
        bins = [range(k * length // size, -(-(k + 1) * length // size)) for k in range(size)]
        image = np.stack([image.take(of, axis).mean(axis) for of in bins], axis)
    return image


def save_pictures(pictures: Pictures, file: Path) -> None:
    """Keeps pictures, all with the same headings.

    Raises:
        OSError: where the file cannot be written; the old one stays.
    """
    samples = list(pictures.panels.values())
    names = list(samples[0]) if samples else []
    arrays = {f"panel{k}": np.stack([panels[name] for panels in samples]) for k, name in enumerate(names)}
    index = np.array(list(pictures.panels), dtype=np.int64)
    amplification = np.array(pictures.amplification)
    _save(file, index=index, names=np.array(names, dtype=np.str_), amplification=amplification, **arrays)


def load_pictures(file: Path) -> Pictures:
    """What ``save_pictures`` kept.

    Raises:
        OSError: where there is none.
        ValueError: where the file is damaged or another's.
    """
    content = _load(file)
    names = content["names"].tolist()
    panels = {
        index: {name: content[f"panel{k}"][i] for k, name in enumerate(names)}
        for i, index in enumerate(content["index"].tolist())
    }
    return Pictures(panels, float(content["amplification"]))


def save_samples(samples: Samples, file: Path) -> None:
    """Keeps samples; those with clean images are the first of ``indices``, their images alike in shape.

    Raises:
        OSError: where the file cannot be written.
    """
    clean = [samples.clean[index] for index in samples.indices[: len(samples.clean)]]
    _save(
        file,
        indices=np.array(samples.indices, dtype=np.int64),
        classes=np.array(samples.classes, dtype=np.str_),
        clean=np.stack(clean) if clean else np.zeros((0, 1, 1, 1), np.uint8),
    )


def load_samples(file: Path) -> Samples:
    """What ``save_samples`` kept; raises as ``load_pictures`` does."""
    content = _load(file)
    indices = content["indices"].tolist()
    clean = dict(zip(indices, content["clean"], strict=False))
    return Samples(indices, content["classes"].tolist(), clean)


def _save(file: Path, **arrays: np.ndarray) -> None:
    memory = io.BytesIO()
    np.savez_compressed(memory, allow_pickle=False, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, memory.getvalue())


def _load(file: Path) -> dict[str, np.ndarray]:
    content = io.BytesIO(file.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ValueError(f"{file}: is damaged: {' '.join(str(error).split())}") from None
