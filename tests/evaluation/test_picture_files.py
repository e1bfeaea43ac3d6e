"""Picture files: every mode and format, orientation, sizes, names."""

import io
import os
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import v2 as transforms

from hetpure.errors import ConfigError
from hetpure.evaluation.picture_files import Sizes, find_pictures, make_folder, read_picture, write_new

ANY = Sizes()


def colours(width: int = 12, height: int = 8) -> Image.Image:
    """Smooth, and different in each direction and channel."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([20 * x, 30 * y, 255 - 20 * x], axis=-1).astype(np.uint8))


def saved(image: Image.Image, file: Path, **settings: object) -> Path:
    image.save(file, **settings)
    return file


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tif", "tga", "ppm"])
def test_lossless_formats_give_the_same_pixels(ending: str, tmp_path: Path) -> None:
    file = saved(colours(), tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    picture = read_picture(file, 3, ANY)
    assert np.array_equal(picture.pixels, np.asarray(colours())) and picture.changes == ""


OLD_PILLOW = pytest.mark.skipif(PIL.__version__ < "11", reason="this pillow cannot read the YCbCr TIFF that it writes")
YCBCR = pytest.param("YCbCr", marks=OLD_PILLOW)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", YCBCR])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read(mode: str, channels: int, tmp_path: Path) -> None:
    file = saved(colours().convert("L" if mode == "PA" else "RGB").convert(mode), tmp_path / "a.tif")
    picture = read_picture(file, channels, ANY)
    assert picture.pixels.shape == (8, 12, channels) and picture.pixels.dtype == np.uint8
    grey = mode in ("1", "L", "LA")
    assert picture.changes == ("turned grey" if channels == 1 and not grey else "")
    if mode not in ("1", "P"):  # these have few colours
        expected = np.asarray(colours().convert("L")).astype(int)
        assert abs(np.asarray(Image.fromarray(picture.pixels.squeeze()).convert("L")) - expected).max() <= 3


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    alpha = Image.new("L", (12, 8), 255)
    alpha.paste(0, (0, 0, 4, 8))
    image = colours()
    image.putalpha(alpha)
    picture = read_picture(saved(image, tmp_path / "a.png"), 3, ANY)
    assert (picture.pixels[:, :4] == 255).all() and picture.changes == "put on white"
    assert np.array_equal(picture.pixels[:, 4:], np.asarray(colours())[:, 4:])


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 96).reshape(8, 12)
    picture = read_picture(saved(Image.fromarray(values.astype(np.uint16)), tmp_path / "a.png"), 1, ANY)
    assert abs(picture.pixels[..., 0] - values / 257).max() <= 0.51 and picture.changes == ""


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    file = saved(Image.fromarray(np.full((8, 8), 1e6, np.float32)), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"cannot be read: its values, 1e\+06 to 1e\+06, are neither 8 nor 16 bits"):
        read_picture(file, 3, ANY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_they_say(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    file = saved(colours(), tmp_path / "a.png", exif=exif)
    turned = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
              4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
              7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}[orientation]  # fmt: skip
    expected = colours() if turned is None else colours().transpose(turned)
    assert np.array_equal(read_picture(file, 3, ANY).pixels, np.asarray(expected))


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (31, 90), (9, 8), (5, 3), (200, 10)])
def test_a_square_is_cut_as_the_data_are(size: tuple[int, int], tmp_path: Path) -> None:
    image = ImageOps.contain(colours(250, 250), (250, 250)).resize(size)
    expected = transforms.CenterCrop(8)(transforms.Resize(8)(image))
    picture = read_picture(saved(image, tmp_path / "a.png"), 3, Sizes(square=8))
    assert np.array_equal(picture.pixels, np.asarray(expected))
    assert (picture.changes == "") == (size == (8, 8))


def test_what_was_resized_is_said(tmp_path: Path) -> None:
    file = saved(colours(64, 48), tmp_path / "a.png")
    assert read_picture(file, 3, Sizes(square=8)).changes == "resized from 64x48 to 10x8, cut to 8x8"
    assert read_picture(file, 1, Sizes(square=48)).changes == "cut to 48x48, turned grey"
    assert read_picture(file, 3, Sizes(multiple=16)).changes == ""
    assert read_picture(file, 3, Sizes(multiple=10)).changes == "resized from 64x48 to 60x50"


def test_the_nearest_size_is_a_rule() -> None:
    assert Sizes(square=32).nearest(4000, 3000) == (32, 32)
    assert Sizes(multiple=32).nearest(4000, 3000) == (4000, 3008)
    assert Sizes(multiple=32).nearest(3, 50) == (32, 64)
    assert Sizes().nearest(4001, 3) == (4001, 3)


def test_damaged_files_are_refused_in_a_line(tmp_path: Path) -> None:
    whole = io.BytesIO()
    colours(200, 200).save(whole, "JPEG")
    contents = {"cut.jpg": whole.getvalue()[:900], "empty.png": b"", "text.tif": b"hello\n", "head.gif": b"GIF89a"}
    # Ghostscript would draw this one.
    contents["program.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as error:
            read_picture(tmp_path / name, 3, ANY)
        assert str(error.value).startswith(("cannot be read: ", "is no picture in a format that is read")), name
        assert "\n" not in str(error.value)


def test_folders_are_searched_and_files_taken_once(tmp_path: Path) -> None:
    names = ["b.jpg", "a.PNG", "deep/c.webp", "notes.txt", "out/a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_pictures([tmp_path / "b.jpg", tmp_path], tmp_path / "out")
    assert found == [tmp_path / "b.jpg", tmp_path / "a.PNG", tmp_path / "deep/c.webp"]
    assert find_pictures([tmp_path / "notes.txt"], tmp_path / "out") == [tmp_path / "notes.txt"]  # named: tried
    with pytest.raises(ConfigError, match=r"no\.png: no such file or folder"):
        find_pictures([tmp_path, tmp_path / "no.png"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no pictures there; accepted: files of .*\.jpg"):
        find_pictures([tmp_path / "out"], tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a-2.png").write_text("mine")
    files = [write_new(colours(), tmp_path, "a") for _ in range(3)]
    assert [file.name for file in files] == ["a.png", "a-3.png", "a-4.png"]
    assert (tmp_path / "a-2.png").read_text() == "mine"


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(colours(), tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output .*file: File exists"):
        make_folder(tmp_path / "file")
