"""Where images come from: timm's dataset factory, SVHN's files, and the digits inside scikit-learn."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor, tensor, uint8, zeros
from torchvision.transforms import v2 as transforms

from hetpure.data.hub import open_hub
from hetpure.data.svhn import open_svhn
from hetpure.errors import AbsentError, ConfigError

NAMES = "digits, hfds/HUB_ID, torch/TORCHVISION_NAME or folder"
TORCH_NAMES = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "svhn", "stl10", "imagenet")


@dataclass(frozen=True)
class Source:
    """One split of a dataset, with random access to its decoded images.

    Args:
        image: position in the split -> (C, H, W) uint8.
        labels: class of each position.
        image_shape: (C, H, W) of every image.
        num_classes: number of classes.
        class_names: their names, where known.
        scale: the value that means 1.0 (255, but 16 for the digits).
    """

    image: Callable[[int], Tensor]
    labels: list[int]
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: list[str] | None = None
    scale: float = 255.0

    def __len__(self) -> int:
        return len(self.labels)


def open_source(
    name: str,
    root: str | None = None,
    split: str = "test",
    image_size: int | None = None,
    split_key: str = "data.test_split",
) -> Source:
    """Opens one split; decodes one image to learn the shape, no more.

    Args:
        name: ``digits``; ``hfds/HUB_ID`` or ``hfds/HUB_ID:CONFIG``; ``torch/NAME``; ``folder``.
        root: folder of the data; for ``torch/svhn`` the one that holds ``train_32x32.mat`` and ``test_32x32.mat``. For
            ``hfds`` a local copy in hub layout (then HUB_ID only names it) or, where it is none, the cache to
            download to.
        split: name of the split.
        image_size: resize the shorter side to this and cut the centre square; None leaves images as they are.
        split_key: config key of the split, for messages.

    Raises:
        ConfigError: for an unknown name or split, or data that is not there.
    """
    kind, _, rest = name.partition("/")
    if kind == "digits" and not rest:
        source = _digits(split, split_key)
    elif kind == "hfds":
        source = _from_items(*open_hub(rest, root, split, split_key), mode="RGB", image_size=image_size)
    elif kind == "torch" and rest == "svhn":
        source = _svhn(_folder(name, root), split, image_size, split_key)
    elif kind == "torch" and rest in TORCH_NAMES:
        source = _torchvision(rest, _folder(name, root), split, image_size, split_key)
    elif kind == "torch":
        raise ConfigError(f"data.name: found {name!r}, accepted after torch/ are {', '.join(TORCH_NAMES)}")
    elif kind == "folder" and not rest:
        source = _image_folder(_folder(name, root), split, image_size, split_key)
    else:
        raise ConfigError(f"data.name: found {name!r}, accepted are {NAMES}")
    return source


def in_memory(source: Source, progress: Callable[[range], Any] = lambda items: items) -> Source:
    """The same split with every image decoded once, (N, C, H, W) uint8 in memory.

    Args:
        source: any split.
        progress: wraps the range of positions, to show a bar.
    """
    images = zeros((len(source), *source.image_shape), dtype=uint8)
    for index in progress(range(len(source))):
        images[index] = source.image(index)
    return Source(
        images.__getitem__, source.labels, source.image_shape, source.num_classes, source.class_names, source.scale
    )


def _digits(split: str, split_key: str) -> Source:
    """Scikit-learn's 8x8 handwritten digits, a fixed stratified split: 1,297 to train on, 500 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    parts = train_test_split(np.arange(len(data.target)), test_size=500, random_state=0, stratify=data.target)
    where = dict(zip(("train", "test"), parts, strict=True))
    if split not in where:
        raise ConfigError(f"{split_key}: digits has no split {split!r}, accepted are {', '.join(where)}")
    images = tensor(data.images[where[split]], dtype=uint8)[:, None]
    labels = data.target[where[split]].tolist()
    return Source(images.__getitem__, labels, (1, 8, 8), 10, [str(d) for d in range(10)], scale=16.0)


def _svhn(root: Path, split: str, image_size: int | None, split_key: str) -> Source:
    images, labels = open_svhn(root, split, split_key)
    names = [str(digit) for digit in range(10)]
    return _from_items(
        lambda i: Image.fromarray(images[i]), labels, len(names), names, mode="RGB", image_size=image_size
    )


def _torchvision(name: str, root: Path, split: str, image_size: int | None, split_key: str) -> Source:
    from timm.data.dataset_factory import create_dataset
    from torchvision import datasets

    try:
        dataset: Any = (
            datasets.STL10(str(root), split)  # which timm's factory does not know
            if name == "stl10"
            else create_dataset(f"torch/{name}", str(root), split)
        )
    except ValueError as error:
        raise ConfigError(f"{split_key}: torch/{name} has no split {split!r}: {' '.join(str(error).split())}") from None
    except (RuntimeError, OSError) as error:
        raise AbsentError(f"data.root: torch/{name} is not in {root}: {' '.join(str(error).split())}") from None
    targets = getattr(dataset, "targets", None)
    labels = [int(label) for label in (dataset.labels if targets is None else targets)]
    names = getattr(dataset, "classes", None)
    names = [n if isinstance(n, str) else n[0] for n in names] if names else None
    mode = "L" if dataset[0][0].mode == "L" else "RGB"
    count = len(names) if names else max(labels) + 1
    return _from_items(lambda i: dataset[i][0], labels, count, names, mode=mode, image_size=image_size)


def _image_folder(root: Path, split: str, image_size: int | None, split_key: str) -> Source:
    from timm.data.dataset_factory import create_dataset

    splits = sorted(p.name for p in root.iterdir() if p.is_dir())
    if split not in splits:
        raise ConfigError(f"{split_key}: {root} has no subfolder {split!r}, found {', '.join(splits) or 'none'}")
    # A split may lack some classes; numbering all splits' classes together keeps labels alike between splits.
    names = sorted({p.name for s in splits for p in (root / s).iterdir() if p.is_dir()})
    reader: Any = create_dataset(
        "", str(root / split), search_split=False, class_map={name: index for index, name in enumerate(names)}
    )
    reader = reader.reader
    # Images are decoded here, not by timm's dataset: that one quietly puts the next image in a broken one's place.
    labels = [int(label) for _, label in reader.samples]
    if not labels:
        raise ConfigError(f"data.root: {root / split} has no images in class subfolders")
    return _from_items(lambda i: Image.open(reader[i][0]), labels, len(names), names, mode="RGB", image_size=image_size)


def _from_items(
    load: Callable[[int], Image.Image | bytes],
    labels: list[int],
    num_classes: int,
    class_names: list[str] | None,
    *,
    mode: str,
    image_size: int | None,
) -> Source:
    channels, height, width = _decode(load, mode, image_size, 0).shape

    def image(index: int) -> Tensor:
        found = _decode(load, mode, image_size, index)
        if found.shape != (channels, height, width):
            raise ConfigError(
                f"data.image_size: image {index} is {found.shape[1]}x{found.shape[2]}, image 0 {height}x{width}; "
                "set data.image_size to bring all to one size"
            )
        return found

    return Source(image, labels, (channels, height, width), num_classes, _readable(class_names))


def _readable(names: Sequence[str] | None) -> list[str] | None:
    """WordNet numbers, by which ImageNet's classes go (n02107142), as words; any other names as they are."""
    if names is None or not all(re.fullmatch(r"n\d{8}", name) for name in names):
        return None if names is None else list(names)
    from timm.data.imagenet_info import ImageNetInfo

    words = cast(dict[str, str], ImageNetInfo().label_descriptions(as_dict=True))
    return [words.get(name, name).split(",")[0] for name in names]


def _decode(load: Callable[[int], Image.Image | bytes], mode: str, image_size: int | None, index: int) -> Tensor:
    """One image as (C, H, W) uint8."""
    loaded = load(index)
    image = (Image.open(io.BytesIO(loaded)) if isinstance(loaded, bytes) else loaded).convert(mode)
    if image_size is not None:
        image = transforms.CenterCrop(image_size)(transforms.Resize(image_size)(image))
    return transforms.functional.pil_to_tensor(image)


def _folder(name: str, root: str | None) -> Path:
    if root is None:
        raise ConfigError(f"data.root: {name} needs a folder, found none")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise AbsentError(f"data.root: found {root!r}, which is no folder; accepted is a folder that holds {name}")
    return path
