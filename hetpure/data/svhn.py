"""SVHN's cropped digits from the .mat files that its authors publish, or from any that are laid out alike."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from hetpure.errors import AbsentError, ConfigError, require

SPLITS = ("train", "test", "extra")


def svhn_file(root: Path, split: str) -> Path:
    """The file of a split.

    Raises:
        ConfigError: for an unknown split.
    """
    require(split in SPLITS, "split", split, f"{', '.join(SPLITS)} of torch/svhn")
    return root / f"{split}_32x32.mat"


def open_svhn(root: Path, split: str) -> tuple[np.ndarray, list[int]]:
    """One split, from ``root/SPLIT_32x32.mat``.

    The file holds X (32, 32, 3, N) uint8 and y, N labels 1..10, where 10 is the digit 0. torchvision's reader admits
    the three published files alone, by their checksums; this one takes a part or a relative of them too.

    Args:
        root: folder of the files.
        split: ``train``, ``test`` or ``extra``.

    Returns:
        Images (N, 32, 32, 3) uint8, and the digits 0..9.

    Raises:
        ConfigError: for an unknown split, a missing, cut or malformed file; one line that names it.
    """
    path = svhn_file(root, split)
    if not path.is_file():
        raise AbsentError("root", f"{root} holds no {path.name}, the {split} split of torch/svhn")
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # a cut or foreign file ends in any of a dozen types, HDF5 in NotImplementedError
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError("root", f"{path} is no whole MATLAB file of version 7 or older: {reason}") from None
    for key in ("X", "y"):
        if key not in content:
            raise ConfigError("root", f"{path} holds no {key}", accepted="X (32, 32, 3, N) and y (N, 1)")
    images, labels = np.asarray(content["X"]), np.asarray(content["y"])
    if images.ndim == 3:  # MATLAB drops a last dimension of 1
        images = images[..., None]
    if images.shape[:3] != (32, 32, 3) or images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        problem = f"{path}: X is {_shape(images)} {images.dtype}"
        raise ConfigError("root", problem, accepted="(32, 32, 3, N) uint8, N at least 1")
    count = images.shape[3]
    if labels.size != count or max(labels.shape, default=0) != count or labels.dtype.kind not in "uif":
        problem = f"{path}: y is {_shape(labels)} {labels.dtype}"
        raise ConfigError("root", problem, accepted=f"the {count} labels of X, ({count}, 1)")
    labels = labels.reshape(-1)
    # A file whose digit 0 is called 0 already says the same.
    if wrong := sorted(set(labels.tolist()) - set(range(11))):
        raise ConfigError("root", f"{path}: y holds {wrong[0]}", accepted="1..10, where 10 is the digit 0")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels.astype(np.int64) % 10).tolist()


def _shape(array: np.ndarray) -> str:
    return "(" + ", ".join(map(str, array.shape)) + ")"
