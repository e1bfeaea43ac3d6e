"""Pixels for people to look at, kept in a run's folder: 8 bits a value, compressed without loss.

What was evaluated is not here: adversarial images lie beside the records as the float32 values that they are.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.evaluation.pictures import PictureRow
from hetpure.runs.claim import write_whole

THUMB = 64
"""Longest side of the small clean images, in pixels; larger ones are shrunk."""

CLEAN_LIMIT = 2**23
"""Bytes of small clean images in a run's folder, before compression."""


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


def to_pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] to uint8 (H, W, C)."""
    return (image.float().clamp(0.0, 1.0) * 255.0).round().byte().movedim(0, -1).cpu().numpy()


def shrunk(image: Tensor, side: int) -> Tensor:
    """The image (C, H, W), with its longest side brought down to ``side`` by averaging; small ones as they are."""
    longest = max(image.shape[1:])
    if longest <= side:
        return image
    size = [max(round(length * side / longest), 1) for length in image.shape[1:]]
    return functional.interpolate(image[None].float(), size, mode="area")[0]


def save_pictures(rows: Sequence[PictureRow], amplification: float, file: Path) -> None:
    """Keeps the panels of picture rows that have an index, all with the same headings.

    Raises:
        OSError: where the file cannot be written; the old one stays.
    """
    rows = [row for row in rows if row.index is not None]
    names = list(rows[0].panels) if rows else []
    arrays = {f"panel{k}": np.stack([to_pixels(row.panels[name]) for row in rows]) for k, name in enumerate(names)}
    index = np.array([row.index for row in rows], dtype=np.int64)
    _save(file, index=index, names=np.array(names, dtype=np.str_), amplification=np.array(amplification), **arrays)


def load_pictures(file: Path) -> Pictures:
    """What ``save_pictures`` kept.

    Raises:
        OSError: where there is none.
        ValueError: where the file is damaged or another's.
    """
    found = _load(file)
    names = found["names"].tolist()
    panels = {
        index: {name: found[f"panel{k}"][i] for k, name in enumerate(names)}
        for i, index in enumerate(found["index"].tolist())
    }
    return Pictures(panels, float(found["amplification"]))


def save_samples(data: ImageDataModule, file: Path) -> None:
    """Keeps names of classes, indices, and small clean images up to ``CLEAN_LIMIT``; a file that has them stays.

    Raises:
        OSError: where the file cannot be written.
    """
    names = data.class_names or [str(k) for k in range(data.num_classes)]
    try:
        old = load_samples(file)
        if list(old.indices) == list(data.indices) and list(old.classes) == list(names):
            return
    except (OSError, ValueError):
        pass
    kept, room = [], CLEAN_LIMIT
    for index in data.indices:
        pixels = to_pixels(shrunk(item(data.test_source, index)["image"], THUMB))
        room -= pixels.nbytes
        if room < 0 or (kept and pixels.shape != kept[0].shape):
            break
        kept.append(pixels)
    clean = np.stack(kept) if kept else np.zeros((0, 1, 1, 1), np.uint8)
    _save(
        file, indices=np.array(data.indices, dtype=np.int64), classes=np.array(list(names), dtype=np.str_), clean=clean
    )


def load_samples(file: Path) -> Samples:
    """What ``save_samples`` kept; raises as ``load_pictures`` does."""
    found = _load(file)
    indices = found["indices"].tolist()
    clean = dict(zip(indices, found["clean"], strict=False))
    return Samples(indices, found["classes"].tolist(), clean)


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
