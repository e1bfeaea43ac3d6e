"""``hetpure purify`` as a user calls it, on pictures of digits and of the lab's size."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from hetpure.cli import main
from hetpure.evaluation import purify_pictures as module
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import LINEAR_VP
from hetpure.models.diffusers_folder import save_diffusers
from tests.toys import tiny_unet

DIGITS = """
data: {name: digits}
classifier:
  name: cifar_resnet8
  weights: checkpoints/digits/classifier/model.safetensors
  arguments: {num_classes: 10, in_chans: 1}
denoiser: {path: checkpoints/digits/denoiser}
purifier: {name: heterogeneous, grid_size: 20}
rows:
  undefended: {purifier: {name: none}}
  uniform: {purifier: {name: uniform, t: 0.1, grid_size: 20}}
  heterogeneous: {}
  bare: {purifier: {name: none}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a config and pictures of the digits 0 to 3."""
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").write_text(DIGITS)
    Path("in").mkdir()
    for digit, pixels in enumerate(load_digits().images[:4]):
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(f"in/{digit}.png")
    return tmp_path


def purify(*arguments: str, output: str = "out") -> int:
    return main(["purify", *arguments, "--config", "digits.yaml", "--output", output])


def hashes(folder: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder).iterdir()}


def test_a_folder_is_cleaned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert purify("in") == 0
    out, errors = capsys.readouterr()
    assert sorted(hashes("out")) == ["0.png", "1.png", "2.png", "3.png", "before_after.png"]
    first, *lines, last = out.splitlines()
    assert first == "row heterogeneous: heterogeneous purifier, 4 network calls a picture, seed 0"
    for digit, line in enumerate(lines):
        assert re.fullmatch(rf"in/{digit}.png: {digit} \d+.\d % before, \d \d+.\d % after; out/{digit}.png", line)
        with Image.open(f"in/{digit}.png") as before, Image.open(f"out/{digit}.png") as after:
            assert before.size == after.size and before.mode == after.mode == "L"
            assert 0 < abs(np.asarray(before).astype(int) - np.asarray(after)).mean() < 60
    assert last == "sheet of 4 pictures: out/before_after.png"
    assert "4/4 pictures" in errors
    with Image.open("out/before_after.png") as sheet:
        assert sheet.height > sheet.width > 400


def test_a_picture_has_the_same_bits_in_any_company(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more").mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"more/noise{number}.png")
    with Image.open("in/3.png") as image:
        image.save("renamed.bmp")
    calls = [["in"], ["in/3.png"], ["more", "in/3.png"], ["in/3.png", "more"], ["renamed.bmp"]]
    lines, files = set(), set()
    for number, pictures in enumerate(calls):
        assert purify(*pictures, "pictures=0", output=f"out{number}") == 0
        name = "renamed" if pictures == ["renamed.bmp"] else "3"
        files.add(hashes(f"out{number}")[f"{name}.png"])
        mine = {"in": "in/3.png", "renamed.bmp": "renamed.bmp"}.get(pictures[0], "in/3.png")
        lines |= {line.split(";")[0].split(": ")[1] for line in capsys.readouterr().out.splitlines() if mine in line}
    assert len(files) == len(lines) == 1
    assert purify("in/3.png", "pictures=0", "seed=1", output="another") == 0
    assert hashes("another")["3.png"] not in files


def test_results_are_never_overwritten(here: Path) -> None:
    Path("b").mkdir()
    with Image.open("in/1.png") as image:
        image.save("b/0.bmp")
    assert purify("in/0.png", "b") == 0
    first = hashes("out")
    assert sorted(first) == ["0-2.png", "0.png", "before_after.png"]
    assert purify("in/0.png", "b") == 0
    assert len(hashes("out")) == 6 and first.items() <= hashes("out").items()


def test_an_unreadable_picture_is_named_and_the_rest_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/1.png").write_bytes(Path("in/1.png").read_bytes()[:60])
    Path("in/2.png").write_text("no picture")
    assert purify("in") == 3
    errors = capsys.readouterr().err
    assert "in/1.png: cannot be read: " in errors and "in/2.png: is no picture in a format that is read\n" in errors
    assert errors.endswith("error: 2 of 4 pictures could not be cleaned; they are named above\n")
    assert sorted(hashes("out")) == ["0.png", "3.png", "before_after.png"]


def test_other_sizes_are_resized_and_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48), "red").save("photo.jpg")
    assert purify("photo.jpg") == 0
    assert "photo.jpg: resized from 64x48 to 10x8, cut to 8x8, turned grey\n" in capsys.readouterr().out


def free_denoiser(folder: Path) -> str:
    """A colour denoiser that states no size: any multiple of 2 will do."""
    unet = tiny_unet(3)
    unet.register_to_config(sample_size=None)
    save_diffusers(unet, LINEAR_VP, folder)
    return str(folder)


FREE = ["classifier={name: resnet18, weights: random, image_size: 32}", "data.name=folder"]


@pytest.mark.parametrize("purifier", ["heterogeneous", "uniform"])
def test_a_denoiser_of_any_size_keeps_the_sizes(purifier: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = free_denoiser(here / "free")
    Image.new("RGB", (14, 20), "teal").save("in/even.png")
    Image.new("RGB", (9, 21), "teal").save("in/odd.png")
    settings = [f"purifier={{name: {purifier}, grid_size: 20}}", "rows=null", f"denoiser.path={path}", *FREE]
    assert purify("in/even.png", "in/odd.png", *settings) == 0
    out = capsys.readouterr().out
    with Image.open("out/even.png") as even, Image.open("out/odd.png") as odd:
        assert (even.size, odd.size) == ((14, 20), (8, 20)) and even.mode == "RGB"
    assert "even.png: resized" not in out and "in/odd.png: resized from 9x21 to 8x20\n" in out
    assert len(re.findall(r"% before, [a-zA-Z' -]+ \d+.\d % after", out)) == 2  # ImageNet's names


def test_the_row_can_be_chosen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert purify("in", "--row", "uniform") == 0
    assert capsys.readouterr().out.startswith("row uniform: uniform purifier, 2 network calls a picture")
    Image.new("RGB", (20, 10)).save("photo.png")
    assert purify("photo.png", "--row", "bare") == 0  # without a denoiser: the size of the data
    assert "photo.png: resized from 20x10 to 16x8, cut to 8x8, turned grey" in capsys.readouterr().out
    with Image.open("out/photo.png") as image:
        assert image.size == (8, 8) and image.getextrema() == (0, 0)
    assert purify("in", "--row", "unifrm") == 2
    assert capsys.readouterr().err == "error: --row unifrm: is no row of this config; did you mean uniform?\n"
    assert purify("in", "rows=null", "purifier={name: none}") == 2
    assert capsys.readouterr().err == "error: purifier.name is 'none', no row of this config purifies\n"


def test_networks_that_do_not_fit_together_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert purify("in", "denoiser.path=checkpoints/cifar10_lab/denoiser") == 2
    assert "error: classifier: does not take 32x32 pictures with 3 channels: " in capsys.readouterr().err
    assert purify("in", "denoiser.path=nowhere") == 2
    assert capsys.readouterr().err.startswith("error: denoiser.path: nowhere: no such folder")
    assert purify("in", "output=elsewhere") == 2
    assert capsys.readouterr().err == "error: output: is what --output says; leave it out\n"


def test_names_are_no_markup(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "$\\frac{1$ x$\x1b[31m\n.png"
    with Image.open("in/0.png") as image:
        image.save(here / name)
    Path("in/0.png").rename(os.fsdecode(b"\xff.png"))  # no UTF-8
    assert purify(name, os.fsdecode(b"\xff.png")) == 0
    out = capsys.readouterr().out
    assert "$\\frac{1$ x$�[31m�.png: 0 " in out and "\x1b" not in out and "\n�.png: 0 " in out
    assert name in hashes("out")


def test_what_is_not_finite_is_not_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = module.PurifiedClassifier.purified_images

    def second_is_nan(*arguments: object) -> torch.Tensor:
        purified = original(*arguments)  # pyright: ignore
        purified[1, 0, 0, 0] = torch.nan
        return purified

    monkeypatch.setattr(module.PurifiedClassifier, "purified_images", second_is_nan)
    assert purify("in") == 3
    assert "in/1.png: the purified picture is not finite\n" in capsys.readouterr().err
    assert sorted(hashes("out")) == ["0.png", "2.png", "3.png", "before_after.png"]


def test_a_size_that_a_network_refuses_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = free_denoiser(here / "free")
    original = Classifier.forward

    def no_long_ones(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > 100:
            raise RuntimeError("out of memory: too long")
        if x.shape[-1] == 90:
            raise AssertionError
        return original(self, x)

    monkeypatch.setattr(Classifier, "forward", no_long_ones)
    Image.new("RGB", (200, 8)).save("in/9_long.png")
    Image.new("RGB", (10, 8)).save("in/8_short.png")
    Image.new("RGB", (90, 8)).save("in/7_other.png")
    settings = ["purifier={name: uniform, grid_size: 20}", "rows=null", f"denoiser.path={path}", "chunk_size=2", *FREE]
    assert purify("in/9_long.png", "in/7_other.png", "in/8_short.png", *settings) == 3
    errors = capsys.readouterr().err
    assert "in/7_other.png: AssertionError\n" in errors
    assert "starts again with chunks of 1 instead of 2 rows" in errors
    assert "in/9_long.png: chunk_size: out of memory with one row in a network call" in errors
    assert sorted(hashes("out")) == ["8_short.png", "before_after.png"]


def test_an_interrupt_keeps_what_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = module.write_new

    def interrupted_at_the_third(image: Image.Image, folder: Path, stem: str) -> Path:
        if stem == "2":
            raise KeyboardInterrupt
        return original(image, folder, stem)

    monkeypatch.setattr(module, "write_new", interrupted_at_the_third)
    with pytest.raises(SystemExit) as end:
        purify("in")
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("interrupted: the pictures that are cleaned already are kept in out\n")
    assert sorted(hashes("out")) == ["0.png", "1.png", "before_after.png"]


def test_a_full_disk_ends_it_in_a_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert purify("in") == 3
    assert capsys.readouterr().err.endswith("error: out: cannot be written: No space left on device\n")
    assert hashes("out") == {}
