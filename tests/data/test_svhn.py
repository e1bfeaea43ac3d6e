"""SVHN from a folder of .mat files, made here by scipy: not the published ones, whose checksums nobody asks for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import SVHN

from hetpure.data import ImageDataModule, open_source
from hetpure.errors import AbsentError, ConfigError

Y = np.array([[10], [1], [2], [10], [9], [3]])


def pictures(count: int = 6, seed: int = 0) -> np.ndarray:
    """X of the files: the image's number is the last axis."""
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)


def test_images_and_digits(tmp_path: Path) -> None:
    x = pictures()
    savemat(tmp_path / "test_32x32.mat", {"X": x, "y": Y})
    source = open_source("torch/svhn", str(tmp_path), "test")
    assert source.labels == [0, 1, 2, 0, 9, 3]  # 10 is the digit 0
    assert (source.image_shape, source.num_classes) == ((3, 32, 32), 10)
    assert source.class_names == [str(digit) for digit in range(10)]
    for index in range(6):
        assert torch.equal(source.image(index), torch.from_numpy(x[..., index].transpose(2, 0, 1).copy()))


def test_ten_classes_however_few_digits_occur(tmp_path: Path) -> None:
    savemat(tmp_path / "test_32x32.mat", {"X": pictures(2), "y": np.array([[1], [1]])}, do_compression=True)
    assert open_source("torch/svhn", str(tmp_path), "test").num_classes == 10


@pytest.mark.parametrize("y", [Y.astype(np.uint8), Y.astype(float), Y[:, 0], np.where(Y == 10, 0, Y)])
def test_labels_as_matlab_numpy_or_relabelled(tmp_path: Path, y: np.ndarray) -> None:
    savemat(tmp_path / "train_32x32.mat", {"X": pictures(), "y": y})
    assert open_source("torch/svhn", str(tmp_path), "train").labels == [0, 1, 2, 0, 9, 3]


def test_a_single_image(tmp_path: Path) -> None:
    savemat(tmp_path / "extra_32x32.mat", {"X": pictures(1)[..., 0], "y": Y[:1]})
    assert open_source("torch/svhn", str(tmp_path), "extra").labels == [0]


def test_both_splits_through_the_datamodule(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pictures(count), "y": Y[:count]})
    data = ImageDataModule("torch/svhn", str(tmp_path), batch_size=2).prepare()
    assert sum(len(batch["label"]) for batch in data.test_dataloader()) == 3
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32) and batch["image"].max() <= 1.0


def written(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda file: savemat(file, arrays)


def cut(file: Path, compressed: bool = False) -> None:
    savemat(file, {"X": pictures(), "y": Y}, do_compression=compressed)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (written(y=Y), "holds no X"),
        (written(X=pictures()), "holds no y"),
        (
            written(X=pictures().transpose(3, 0, 1, 2), y=Y),
            r"X is \(6, 32, 32, 3\) uint8; accepted: \(32, 32, 3, N\)",
        ),
        (written(X=pictures() / 255.0, y=Y), r"X is \(32, 32, 3, 6\) float64"),
        (written(X=pictures(0), y=Y[:0]), "N at least 1"),
        (written(X=pictures(), y=Y[:4]), r"y is \(4, 1\) int64; accepted: the 6 labels"),
        (written(X=pictures(), y=np.array(list("abcdef"))), "y is .* accepted: the 6 labels"),
        (written(X=pictures(), y=Y + 1), r"y holds 11; accepted: 1\.\.10"),
        (written(X=pictures(), y=Y / 2), r"y holds 0\.5; accepted: 1\.\.10"),
        (cut, "is no whole MATLAB file"),
        (lambda file: cut(file, compressed=True), "is no whole MATLAB file"),
        (lambda file: file.write_bytes(b""), "is no whole MATLAB file"),
        (lambda file: file.write_text("no data here" * 99), "is no whole MATLAB file"),
        (lambda file: file.write_bytes(b"MATLAB 7.3".ljust(124) + b"\0\2IM" + bytes(600)), "is no whole MATLAB file"),
    ],
)
def test_one_clear_line(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "test_32x32.mat")
    with pytest.raises(ConfigError, match=rf"^root: .*{message}") as error:
        open_source("torch/svhn", str(tmp_path), "test")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_downloaded(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    published = folder / "published.mat"
    savemat(published, {"X": pictures(), "y": Y})
    md5 = hashlib.md5(published.read_bytes()).hexdigest()
    monkeypatch.setitem(SVHN.split_list, "test", [f"{address}/published.mat", "test_32x32.mat", md5])
    assert len(open_source("torch/svhn", str(tmp_path / "data"), "test")) == 6
    monkeypatch.setitem(SVHN.split_list, "test", [f"{address}/nothing", "test_32x32.mat", md5])
    with pytest.raises(AbsentError, match=r"^root: torch/svhn is not in .*/other and cannot be downloaded: "):
        open_source("torch/svhn", str(tmp_path / "other"), "test")


def test_an_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^split is 'val'; accepted: train, test, extra"):
        open_source("torch/svhn", str(tmp_path), "val")
