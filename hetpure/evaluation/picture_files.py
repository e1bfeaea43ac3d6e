"""Picture files of any format, size and mode: found, decoded, fitted to what networks take, and written. No torch."""

import errno
import io
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hetpure.config import exists
from hetpure.errors import ConfigError
from hetpure.runs.files import one_line, write_whole

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What is read. Pillow decodes some other formats with programs outside (EPS with Ghostscript): those stay shut."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of images that a network takes.

    Attributes:
        square: the only side, of square images; None for any.
        multiple: of which each side is a multiple.
    """

    square: int | None = None
    multiple: int = 1

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """The size that is taken and nearest to a picture's."""
        if self.square is not None:
            return self.square, self.square
        width, height = (max(round(side / self.multiple), 1) * self.multiple for side in (width, height))
        return width, height


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        file: where it came from.
        pixels: uint8 (H, W, C).
        changes: what was changed to fit it to the networks, in words; empty for none.
    """

    file: Path
    pixels: np.ndarray
    changes: str


def find_pictures(paths: Iterable[Path], output: Path) -> list[Path]:
    """The files that some paths mean, each once: files as they are, of folders all picture files below them, sorted.

    Args:
        paths: files and folders.
        output: a folder to leave out.

    Raises:
        ConfigError: for a path that is not there, or where no picture is found.
    """
    paths = list(paths)
    endings = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    out, found = output.resolve(), dict[Path, Path]()
    for path in paths:
        if not exists(path) or not (path.is_file() or path.is_dir()):
            raise ConfigError(str(path), "no such file or folder")
        inside = (file for file in sorted(path.rglob("*")) if file.is_file() and out not in file.resolve().parents)
        for file in inside if path.is_dir() else [path]:
            if file == path or file.suffix.lower() in endings:
                found.setdefault(file.resolve(), file)
    if not found:
        where = ", ".join(map(str, paths)) or "PICTURE"
        raise ConfigError(where, "no pictures there", accepted=f"files of {', '.join(sorted(endings))}")
    return list(found.values())


def make_folder(folder: Path) -> None:
    """Makes the folder for the results; ConfigError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it cannot be written")
    except OSError as error:
        raise ConfigError(f"--output {folder}", one_line(error)) from None


def write_new(image: Image.Image, folder: Path, stem: str) -> Path:
    """Writes STEM.png, or, where such a file exists, STEM-2.png and so on: no file is ever replaced.

    Raises:
        OSError: where it cannot be written; then nothing is left of it.
    """
    content = io.BytesIO()
    image.save(content, "PNG")
    file, number = folder / f"{stem}.png", 1
    while True:
        try:
            file.touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
            file = folder / f"{stem}-{number}.png"
    try:
        write_whole(file, content.getvalue())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file


def read_picture(file: Path, channels: int, sizes: Sizes) -> Picture:
    """Decodes a picture (of several frames the first), turns it as its EXIF data say, and fits it to a network.

    Transparent parts become white. To a square, a picture is resized by its shorter side and cut to its centre, as
    ``data.image_size`` does; to multiples, each side is resized on its own.

    Args:
        file: of one of ``FORMATS``.
        channels: 3 for colour, 1 for grey.
        sizes: what the network takes.

    Raises:
        ValueError: where it cannot be read, in a line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about large pictures that are none too large
            with Image.open(file, formats=FORMATS) as opened:
                image = _eight_bit(ImageOps.exif_transpose(opened))
            changes = []
            if image.has_transparency_data:
                image = image.convert("RGBA")
                transparent = np.asarray(image)[..., 3].min() < 255
                changes += ["put on white"] if transparent else []
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            if channels == 1 and opened.mode not in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L"):
                changes.append("turned grey")
            image = image.convert("L" if channels == 1 else "RGB")
            fitted, resized = _fit(image, sizes)
    except UnidentifiedImageError:
        raise ValueError("is no picture in a format that is read") from None
    except Exception as error:  # decoders raise dozens of types for damaged files
        raise ValueError(f"cannot be read: {one_line(error) or type(error).__name__}") from None
    pixels = np.asarray(fitted).reshape(fitted.height, fitted.width, channels)
    return Picture(file, pixels, ", ".join(resized + changes))


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with 8 bits a value, where it has 16."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise ValueError(f"its values, {low:g} to {high:g}, are neither 8 nor 16 bits")
    return Image.fromarray((values / 257.0).round().astype(np.uint8))


def _fit(image: Image.Image, sizes: Sizes) -> tuple[Image.Image, list[str]]:
    """The image in a size that is taken, and what that changed."""
    width, height = image.size
    target = sizes.nearest(width, height)
    if image.size == target:
        return image, []
    full = target
    if sizes.square is not None:  # torchvision's Resize and CenterCrop
        longer = int(sizes.square * max(image.size) / min(image.size))
        full = (sizes.square, longer) if width <= height else (longer, sizes.square)
    changes = [f"resized from {width}x{height} to {full[0]}x{full[1]}"] if full != image.size else []
    image = image.resize(full, Image.Resampling.BILINEAR)
    if full != target:
        left, top = (round((a - b) / 2.0) for a, b in zip(full, target, strict=True))
        image = image.crop((left, top, left + target[0], top + target[1]))
        changes.append(f"cut to {target[0]}x{target[1]}")
    return image, changes
