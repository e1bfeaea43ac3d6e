"""Where images come from: timm's dataset factory, torchvision's downloads, SVHN's files, and embedded images."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PIL import Image, UnidentifiedImageError
from torch import Tensor, uint8, zeros
from tqdm import tqdm

from hetpure.config import exists, expand_home
from hetpure.data.embedded import cifar10_jpeg, digits
from hetpure.data.source import Files, Source
from hetpure.errors import AbsentError, ConfigError, UnreadableError, require

NAMES = "cifar10_jpeg, digits, hfds/HUB_ID, torch/TORCHVISION_NAME, folder or folder/own_classes"
TORCH_NAMES = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist", "svhn", "stl10", "imagenet")
ONLY_BY_HAND = ("imagenet",)
"""What torchvision does not download."""

DOWNLOADS = "~/.cache/hetpure"


def open_source(name: str, root: str | None = None, split: str = "test", image_size: int | None = None) -> Source:
    """Opens one split; decodes one image to learn the shape, no more.

    Args:
        name: ``digits`` or ``cifar10_jpeg``, which are embedded; ``hfds/HUB_ID`` or ``hfds/HUB_ID:CONFIG``;
            ``torch/NAME``; ``folder``, of SPLIT/CLASS/IMAGE, where classes called by WordNet numbers of ImageNet's 1000
            classes have the labels of these; ``folder/own_classes``, which counts the classes that are there.
        root: folder of the data. For ``torch``, where torchvision's files are or are downloaded to, by default
            ``~/.cache/hetpure``; ``torch/svhn`` takes any ``train_32x32.mat`` and ``test_32x32.mat`` there. For
            ``hfds``, a local copy in hub layout (then HUB_ID only names it) or, where it is none, the cache to
            download to.
        split: name of the split.
        image_size: resize the shorter side to this and cut the centre square; None leaves images as they are.

    Raises:
        ConfigError: for an unknown name or split, or data that is not available.
    """
    if name == "digits":
        return digits(split)
    if name == "cifar10_jpeg":
        require(root is None, "root", root, f"null: {name} comes with the package; data.name=folder, .. read a folder")
        return _decoded(cifar10_jpeg(split), image_size)
    kind, _, rest = name.partition("/")
    if kind == "hfds":
        from hetpure.data.hub import open_hub

        return _decoded(open_hub(rest, root, split), image_size)
    if name in ("folder", "folder/own_classes"):
        return _decoded(_image_folder(_folder(name, root), split, map_imagenet=name == "folder"), image_size)
    require(kind == "torch", "name", name, NAMES)
    require(rest in TORCH_NAMES, "name", name, ", ".join(f"torch/{known}" for known in TORCH_NAMES))
    if rest in ONLY_BY_HAND:
        return _decoded(_torchvision(rest, _folder(name, root), split, download=False), image_size)
    folder = expand_home(root or DOWNLOADS)
    if rest == "svhn":
        return _decoded(_svhn(folder, split), image_size)
    return _decoded(_torchvision(rest, folder, split, download=True), image_size)


def in_memory(source: Source) -> Source:
    """The same split with every image decoded once, (N, C, H, W) uint8 in memory."""
    images = zeros((len(source), *source.image_shape), dtype=uint8)
    for index in tqdm(range(len(source)), "decoding", leave=False, disable=not sys.stderr.isatty()):
        images[index] = source.image(index)
    return replace(source, image=images.__getitem__)


def _svhn(root: Path, split: str) -> Files:
    from hetpure.data.svhn import open_svhn, svhn_file

    if not svhn_file(root, split).is_file():
        _open_torchvision("svhn", root, split, download=True)
    images, labels = open_svhn(root, split)
    return Files(lambda index: Image.fromarray(images[index]), labels, [str(digit) for digit in range(10)])


def _torchvision(name: str, root: Path, split: str, download: bool) -> Files:
    dataset = _open_torchvision(name, root, split, download)
    targets = getattr(dataset, "targets", None)
    labels = [int(label) for label in (dataset.labels if targets is None else targets)]
    names = getattr(dataset, "classes", None)
    names = [n if isinstance(n, str) else n[0] for n in names] if names else None
    return Files(lambda index: dataset[index][0], labels, names, "L" if dataset[0][0].mode == "L" else "RGB")


def _open_torchvision(name: str, root: Path, split: str, download: bool) -> Any:
    """Torchvision's dataset; its files are downloaded where they are missing, by one process at a time."""
    from filelock import FileLock
    from timm.data.dataset_factory import create_dataset
    from torchvision import datasets

    def opened(download: bool) -> Any:
        if name in ("stl10", "svhn"):  # which timm's factory does not know
            return {"stl10": datasets.STL10, "svhn": datasets.SVHN}[name](str(root), split, download=download)
        return create_dataset(f"torch/{name}", str(root), split, download=download)

    try:
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            return opened(download=False)
        if not download:
            return opened(download=False)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            return opened(download=True)
    except ValueError as error:
        raise ConfigError("split", f"is no split of torch/{name}: {one_line(error)}", found=split) from None
    except (RuntimeError, OSError) as error:
        problem = f"torch/{name} is not in {root}" + (" and cannot be downloaded" if download else "")
        raise AbsentError("root", f"{problem}: {one_line(error)}") from None


def _image_folder(root: Path, split: str, map_imagenet: bool) -> Files:
    from timm.data.dataset_factory import create_dataset
    from timm.data.imagenet_info import ImageNetInfo

    splits = sorted(p.name for p in root.iterdir() if p.is_dir())
    require(split in splits, "split", split, f"{', '.join(splits) or 'none'}, the subfolders of {root}")
    # A split may lack some classes; numbering all splits' classes together keeps labels alike between splits.
    names = sorted({p.name for s in splits for p in (root / s).iterdir() if p.is_dir()})
    if map_imagenet and names and set(names) <= set(of_imagenet := ImageNetInfo().label_names()):
        names = of_imagenet  # in the order of ImageNet's class numbers
    class_map = {name: index for index, name in enumerate(names)}
    dataset: Any = create_dataset("", str(root / split), search_split=False, class_map=class_map)
    reader = dataset.reader
    # Images are decoded here, not by timm's dataset: that one quietly puts the next image in a broken one's place.
    labels = [int(label) for _, label in reader.samples]
    if not labels:
        raise ConfigError("root", f"{root / split} has no images in class subfolders")
    files = [str(file) for file, _ in reader.samples]
    return Files(
        lambda index: Image.open(files[index]), labels, names, name=lambda index: os.path.relpath(files[index], root)
    )


def _decoded(files: Files, image_size: int | None) -> Source:
    """The split with its images as tensors, all of the first one's shape."""
    from torchvision.transforms import v2 as transforms

    def decode(index: int) -> Tensor:
        try:
            loaded = files.load(index)
            image = (Image.open(io.BytesIO(loaded)) if isinstance(loaded, bytes) else loaded).convert(files.mode)
        except Exception as error:  # Pillow's decoders raise a dozen types
            # In words that are the same on every machine, for they are recorded: no path, no address in memory.
            known = "it is no image" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None)
            raise UnreadableError(f"{files.name(index)} cannot be read: {known or one_line(error)[:120]}") from None
        if image_size is not None:
            image = transforms.CenterCrop(image_size)(transforms.Resize(image_size)(image))
        return transforms.functional.pil_to_tensor(image)

    first, (channels, height, width) = _first_shape(decode, files.drawn or range(len(files.labels)))

    def image(index: int) -> Tensor:
        decoded = decode(index)
        if decoded.shape != (channels, height, width):
            problem = f"image {index} is {decoded.shape[1]}x{decoded.shape[2]}, but image {first} is {height}x{width}"
            raise ConfigError("data.image_size", f"{problem}; set a size to which all are resized")
        return decoded

    names, labels = _readable(files.class_names), files.labels
    return Source(
        image, labels, (channels, height, width), len(names) if names else max(labels) + 1, names, drawn=files.drawn
    )


def _first_shape(decode: Callable[[int], Tensor], positions: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Position and shape of the first image that can be read."""
    unreadable = None
    for index in positions:
        try:
            return index, tuple(decode(index).shape)
        except UnreadableError as error:
            unreadable = unreadable or error
    raise ConfigError("root", str(unreadable or "there are no images"))


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
    path = expand_home(root)
    if not (exists(path) and path.is_dir()):
        raise AbsentError("root", "which is no folder", found=root, accepted=f"a folder that holds {name}")
    return path


def one_line(error: Exception) -> str:
    """An exception's message without line breaks."""
    return " ".join(str(error).split())
