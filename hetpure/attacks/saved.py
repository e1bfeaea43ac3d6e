"""Adversarial images that were made elsewhere, or in another run: judged like those of an attack."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hetpure.attacks.base import BallAttack, Observer, Threat
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.norms import NormName
from hetpure.config import exists, resolve_path
from hetpure.errors import AbsentError, ConfigError, UnreadableError
from hetpure.runs.files import CONFIG, one_line
from hetpure.runs.honesty import MARGIN
from hetpure.runs.read import read_settings, row_settings
from hetpure.runs.store import RecordStore

ROUNDING = 0.5 / 255
"""How far an image is moved by rounding to 8 bits, a value."""

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")

Read = Callable[[], np.ndarray]


class SavedImages(BallAttack):
    """Images from a folder or file: a run's, arrays, or pictures.

    Every image must lie in the declared ball around its clean image, up to rounding; this is checked before anything is
    judged. Images of 8 bits (pictures, uint8 arrays) may be half a level, 0.5/255 a value, further away; where one is,
    the threat model that the table states is that much larger.

    Args:
        folder: one of

            * a run folder with one row, or the folder of a row in it;
            * a folder of pictures, each named by its dataset index (``12.png``, ``000012.png``);
            * a ``.npz`` whose arrays are named by dataset index; a ``.npz`` with ``images`` (N, C, H, W) and
              ``indices`` (N,); a ``.npz``, ``.npy`` or ``.pt`` with one array (N, C, H, W) in the order of the subset,
              as AutoAttack saves it.
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].

    Attributes:
        failed: after ``open``, the samples that have no image because they failed in the run that made the images.

    Raises:
        ConfigError: names the argument that cannot be used.
        AbsentError: where there is no such folder or file.
    """

    steps = 0
    uses_defense = False

    def __init__(self, folder: str, norm: NormName, eps: float) -> None:
        super().__init__(norm, eps)
        self.path, self.kind, self.declared = resolve_path(folder), "float", Threat(norm, eps)
        self.failed: set[int] = set()
        self._images: Mapping[int, Read] = {}
        if not exists(self.path):
            raise AbsentError("folder", "does not exist", found=folder)

    def open(self, indices: Sequence[int]) -> None:
        """Finds the images of some samples, unless they are known."""
        if not {*indices} <= self._images.keys() | self.failed:
            self._images = self._open(indices)

    def check_images(self, indices: Sequence[int], clean: Callable[[int], Tensor]) -> None:
        """Checks the images of all samples, and hashes them.

        Raises:
            ConfigError: names the first image that is missing, has another shape, or is outside ball or [0, 1].
        """
        self.open(indices)
        digest, furthest = hashlib.blake2b(digest_size=8), 0.0
        if missing := [index for index in indices if index not in self._images]:
            raise ConfigError("folder", f"{self.path} has no image of sample {missing[0]} ({len(missing)} are missing)")
        for index in indices:
            try:
                image, original = self._image(index), clean(index).numpy()
            except UnreadableError:
                continue  # it is not attacked
            digest.update(f"{index} {image.shape}".encode() + np.ascontiguousarray(image).tobytes())
            problem = None
            if image.shape != original.shape:
                problem = f"has shape {image.shape}, the clean image {original.shape}"
            elif not (image.min() >= 0.0 and image.max() <= 1.0):
                problem = f"has values from {image.min():.6g} to {image.max():.6g}, not from 0 to 1"
            else:
                delta = (image.astype(np.float64) - original).ravel()
                length = float(np.abs(delta).max() if self.norm == "Linf" else np.linalg.norm(delta))
                each = 1.0 if self.norm == "Linf" else delta.size**0.5
                margin, rounding = MARGIN * each, ROUNDING * each if self.kind == "8 bits" else 0.0
                if length > self.eps + rounding + margin:
                    allowed = f" + {rounding:.4g} for 8 bits" if rounding else ""
                    problem = f"is {length:.6g} from the clean image ({self.norm}), and eps is {self.eps:.6g}{allowed}"
                furthest = max(furthest, length - margin)
            if problem:
                raise ConfigError("folder", f"{self.path}: the image of sample {index} {problem}")
        self.content = digest.hexdigest()
        self.threat = self.declared._replace(eps=max(self.eps, furthest))

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        return self.images(sample.tolist()).to(x)

    def images(self, indices: Sequence[int]) -> Tensor:
        """The images (N, C, H, W) of some samples, float32; ConfigError where one cannot be read."""
        return torch.stack([torch.from_numpy(self._image(index)) for index in indices])

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        text = f"saved images, {self.declared}"
        if self.kind != "8 bits":
            return text
        return f"{text}, rounded to 8 bits (0.5/255 more allowed, furthest {self.threat.eps if self.threat else 0:.4g})"

    def _image(self, index: int) -> np.ndarray:
        """An image (C, H, W), float32."""
        try:
            image = self._images[index]()
        except (OSError, ValueError, KeyError) as error:
            problem = f"{self.path}: the image of sample {index} cannot be read: {one_line(error)}"
            raise ConfigError("folder", problem) from None
        if image is None:
            raise ConfigError("folder", f"{self.path}: the image of sample {index} is missing or damaged")
        return image.astype(np.float32) / np.float32(255.0) if image.dtype == np.uint8 else image.astype(np.float32)

    def _open(self, indices: Sequence[int]) -> dict[int, Read]:
        """How to read each image, by dataset index."""
        path = self.path
        if path.is_dir() and (path / CONFIG).is_file():
            rows = list(row_settings(read_settings(path)))
            if len(rows) > 1:
                accepted = f"the folder of one row: {', '.join(str(path / row) for row in rows)}"
                raise ConfigError("folder", "is a run of several rows", found=str(path), accepted=accepted)
            path = path / rows[0]
        if path.is_dir() and any(path.glob("samples-*.jsonl")):
            store = RecordStore(path)
            read = store.outcomes()
            self.failed = {record.index for record in read if record.failure is not None}
            records = {record.index: record for record in read if record.image is not None}
            return {index: _reader(store.adversarial, record) for index, record in records.items()}
        if path.is_dir():
            return self._open_pictures(path)
        try:
            arrays = _load_arrays(path)
        except Exception as error:  # a damaged file raises anything
            raise ConfigError("folder", f"{path} cannot be read: {one_line(error)}") from None
        if arrays and all(name.isdigit() for name in arrays):
            found = {int(name): array for name, array in arrays.items()}
        else:
            found = _by_position(path, arrays, indices)
        if any(array.dtype == np.uint8 for array in found.values()):
            self.kind = "8 bits"
        return {index: _reader(np.asarray, array) for index, array in found.items()}

    def _open_pictures(self, path: Path) -> dict[int, Read]:
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES and f.stem.isdigit())
        if not files:
            accepted = "a run folder, a .npz, or a folder of pictures named by dataset index"
            raise ConfigError("folder", found=str(path), accepted=accepted)
        self.kind, found = "8 bits", {}
        for file in files:
            if int(file.stem) in found:
                raise ConfigError("folder", f"{path} has two images of sample {int(file.stem)}")
            found[int(file.stem)] = _reader(_read_picture, file)
        return found


def _reader(function: Callable[[Any], Any], argument: Any) -> Read:
    return lambda: function(argument)


def _read_picture(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        gray = picture.mode in ("1", "L", "LA", "I;16")
        pixels = np.asarray(picture.convert("L" if gray else "RGB"))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in (".pt", ".pth"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = content if isinstance(content, dict) else {"images": content}
        return {str(name): tensor.numpy() for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    content = np.load(path, allow_pickle=False)
    return dict(content) if hasattr(content, "files") else {"images": content}


def _by_position(path: Path, arrays: Mapping[str, np.ndarray], indices: Sequence[int]) -> dict[int, np.ndarray]:
    """The images of arrays (N, C, H, W), with their indices or in the order of the subset."""
    images = arrays.get("images", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if images is None or images.ndim != 4:
        accepted = "arrays named by dataset index, images and indices, or one array (N, C, H, W)"
        raise ConfigError("folder", f"{path} holds {', '.join(arrays) or 'nothing'}", accepted=accepted)
    order = list(indices)
    if "indices" in arrays:
        order = [int(index) for index in arrays["indices"].ravel()]
    if len(order) != len(images) or len(set(order)) < len(order):
        raise ConfigError("folder", f"{path} has {len(images)} images for {len(set(order))} samples")
    return dict(zip(order, images, strict=True))
