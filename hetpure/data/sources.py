"""Where images come from: timm's dataset factory, SVHN's files, and the digits inside scikit-learn."""

import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image
from torch import Tensor, tensor, uint8, zeros
from tqdm import tqdm

from hetpure.errors import AbsentError, ConfigError, require

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


class Files(NamedTuple):
    """One split as it is stored.

    Attributes:
        load: position in the split -> image, or the bytes of its file.
        labels: class of each position.
        class_names: names of the classes, where known.
        mode: RGB, or L for one channel.
    """

    load: Callable[[int], Image.Image | bytes]
    labels: list[int]
    class_names: list[str] | None = None
    mode: str = "RGB"


def open_source(name: str, root: str | None = None, split: str = "test", image_size: int | None = None) -> Source:
    """Opens one split; decodes one image to learn the shape, no more.

    Args:
        name: ``digits``; ``hfds/HUB_ID`` or ``hfds/HUB_ID:CONFIG``; ``torch/NAME``; ``folder``.
        root: folder of the data; for ``torch/svhn`` the one that holds ``train_32x32.mat`` and ``test_32x32.mat``. For
            ``hfds`` a local copy in hub layout (then HUB_ID only names it) or, where it is none, the cache to
            download to.
        split: name of the split.
        image_size: resize the shorter side to this and cut the centre square; None leaves images as they are.

    Raises:
        ConfigError: for an unknown name or split, or data that is not available.
    """
    kind, _, rest = name.partition("/")
    if kind == "digits" and not rest:
        return _digits(split)
    if kind == "hfds":
        from hetpure.data.hub import open_hub

        return _decoded(open_hub(rest, root, split), image_size)
    if kind == "folder" and not rest:
        return _decoded(_image_folder(_folder(name, root), split), image_size)
    require(kind == "torch", "name", name, NAMES)
    require(rest in TORCH_NAMES, "name", name, ", ".join(f"torch/{known}" for known in TORCH_NAMES))
    if rest != "svhn":
        return _decoded(_torchvision(rest, _folder(name, root), split), image_size)
    from hetpure.data.svhn import open_svhn

    images, labels = open_svhn(_folder(name, root), split)
    digits = [str(digit) for digit in range(10)]
    return _decoded(Files(lambda index: Image.fromarray(images[index]), labels, digits), image_size)


def in_memory(source: Source) -> Source:
    """The same split with every image decoded once, (N, C, H, W) uint8 in memory."""
    images = zeros((len(source), *source.image_shape), dtype=uint8)
    for index in tqdm(range(len(source)), "decoding", leave=False, disable=not sys.stderr.isatty()):
        images[index] = source.image(index)
    return replace(source, image=images.__getitem__)


def _digits(split: str) -> Source:
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


def _torchvision(name: str, root: Path, split: str) -> Files:
    from timm.data.dataset_factory import create_dataset
    from torchvision import datasets

    try:
        dataset: Any = (
            datasets.STL10(str(root), split)  # which timm's factory does not know
            if name == "stl10"
            else create_dataset(f"torch/{name}", str(root), split)
        )
    except ValueError as error:
        raise ConfigError("split", f"is no split of torch/{name}: {one_line(error)}", found=split) from None
    except (RuntimeError, OSError) as error:
        raise AbsentError("root", f"torch/{name} is not in {root}: {one_line(error)}") from None
    targets = getattr(dataset, "targets", None)
    labels = [int(label) for label in (dataset.labels if targets is None else targets)]
    names = getattr(dataset, "classes", None)
    names = [n if isinstance(n, str) else n[0] for n in names] if names else None
    return Files(lambda index: dataset[index][0], labels, names, "L" if dataset[0][0].mode == "L" else "RGB")


def _image_folder(root: Path, split: str) -> Files:
    from timm.data.dataset_factory import create_dataset

    splits = sorted(p.name for p in root.iterdir() if p.is_dir())
    require(split in splits, "split", split, f"{', '.join(splits) or 'none'}, the subfolders of {root}")
    # A split may lack some classes; numbering all splits' classes together keeps labels alike between splits.
    names = sorted({p.name for s in splits for p in (root / s).iterdir() if p.is_dir()})
    class_map = {name: index for index, name in enumerate(names)}
    dataset: Any = create_dataset("", str(root / split), search_split=False, class_map=class_map)
    reader = dataset.reader
    # Images are decoded here, not by timm's dataset: that one quietly puts the next image in a broken one's place.
    labels = [int(label) for _, label in reader.samples]
    if not labels:
        raise ConfigError("root", f"{root / split} has no images in class subfolders")
    return Files(lambda index: Image.open(reader[index][0]), labels, names)


def _decoded(files: Files, image_size: int | None) -> Source:
    """The split with its images as tensors, all of the first one's shape."""
    from torchvision.transforms import v2 as transforms

    def decode(index: int) -> Tensor:
        loaded = files.load(index)
        image = (Image.open(io.BytesIO(loaded)) if isinstance(loaded, bytes) else loaded).convert(files.mode)
        if image_size is not None:
            image = transforms.CenterCrop(image_size)(transforms.Resize(image_size)(image))
        return transforms.functional.pil_to_tensor(image)

    channels, height, width = decode(0).shape

    def image(index: int) -> Tensor:
        decoded = decode(index)
        if decoded.shape != (channels, height, width):
            problem = f"image {index} is {decoded.shape[1]}x{decoded.shape[2]}, but image 0 is {height}x{width}"
            raise ConfigError("data.image_size", f"{problem}; set a size to which all are resized")
        return decoded

    names, labels = _readable(files.class_names), files.labels
    return Source(image, labels, (channels, height, width), len(names) if names else max(labels) + 1, names)


def _readable(names: Sequence[str] | None) -> list[str] | None:
    """Words for ImageNet's class names, which are WordNet numbers (n02107142); any other names as they are."""
    if names is None or not all(re.fullmatch(r"n\d{8}", name) for name in names):
        return None if names is None else list(names)
    from timm.data.imagenet_info import ImageNetInfo

    words = cast(dict[str, str], ImageNetInfo().label_descriptions(as_dict=True))
    return [words.get(name, name).split(",")[0] for name in names]


def _folder(name: str, root: str | None) -> Path:
    if root is None:
        raise ConfigError("root", f"must be given: the folder of {name}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise AbsentError("root", "which is no folder", found=root, accepted=f"a folder that holds {name}")
    return path


def one_line(error: Exception) -> str:
    """An exception's message without line breaks."""
    return " ".join(str(error).split())
