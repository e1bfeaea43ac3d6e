"""Images that come with the package, or with scikit-learn, a dependency of it: no download and no folder."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import tensor, uint8

from hetpure.data.source import Files, Source
from hetpure.errors import require

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def digits(split: str) -> Source:
    """Scikit-learn's 8x8 handwritten digits, a fixed stratified split: 1,297 to train on, 500 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    parts = train_test_split(np.arange(len(data.target)), test_size=500, random_state=0, stratify=data.target)
    splits: dict[str, Any] = dict(zip(("train", "test"), parts, strict=True))
    require(split in splits, "split", split, f"{', '.join(splits)} of digits")
    images = tensor(data.images[splits[split]], dtype=uint8)[:, None]
    labels = data.target[splits[split]].tolist()
    return Source(images.__getitem__, labels, (1, 8, 8), 10, [str(d) for d in range(10)], scale=16.0)


def cifar10_jpeg(split: str) -> Files:
    """The paper's draw of 512 test images, ``RandomState(0).choice(10000, 512)``, of CIFAR-10 (JPEG).

    The files and positions are those of the whole copy, so results are those of the same subset of it.
    See ``cifar10_jpeg.md`` for what they are and whose.
    """
    require(split == "test", "split", split, "test; torch/cifar10 and hfds/uoft-cs/cifar10 have a train split")
    with np.load(Path(__file__).with_name("cifar10_jpeg.npz"), allow_pickle=False) as stored:
        positions, labels, ends, files = (stored[key] for key in ("positions", "labels", "ends", "files"))
    parts = np.split(files, ends[:-1])
    file_of = {int(position): part.tobytes() for position, part in zip(positions, parts, strict=True)}
    return Files(file_of.__getitem__, labels.tolist(), CIFAR10_CLASSES, drawn=list(file_of))
