import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hetpure.data import ImageDataModule, open_source
from hetpure.data.scan import scan
from hetpure.errors import AbsentError, ConfigError, UnreadableError

LAB = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg"


def pixels(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    shape = (size, size, 3) if channels == 3 else (size, size)
    return [Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train: cats and dogs and owls, test: cats and owls only."""
    for split, names in (("train", ("cat", "dog", "owl")), ("test", ("cat", "owl"))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for number, image in enumerate(pixels(4, seed=len(name) + len(split))):
                image.save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in hub layout with the columns of ``uoft-cs/cifar10``."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split, count in (("train", 12), ("test", 7)):
        rows = {"img": pixels(count, seed=count), "label": [i % 2 for i in range(count)]}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "hub"


def batches(data: ImageDataModule) -> dict[str, torch.Tensor]:
    loaded = list(data.test_dataloader())
    return {key: torch.cat([batch[key] for batch in loaded]) for key in loaded[0]}


def test_digits():
    data = ImageDataModule("digits", subset=20, subset_seed=1, batch_size=6).prepare()
    assert (data.image_shape, data.num_classes) == ((1, 8, 8), 10)
    assert (len(open_source("digits", split="train")), len(open_source("digits"))) == (1297, 500)
    batch = batches(data)
    assert batch["image"].dtype == torch.float32 and batch["image"].shape == (20, 1, 8, 8)
    assert batch["image"].min() == 0.0 and batch["image"].max() == 1.0
    assert batch["label"].dtype == batch["index"].dtype == torch.int64
    expected = np.random.RandomState(1).choice(500, 20, replace=False)
    assert batch["index"].tolist() == expected.tolist()  # positions in the split, not in the subset
    source = open_source("digits")
    assert torch.equal(batch["image"][3], source.image(int(expected[3])).float() / 16)
    assert batch["label"].tolist() == [source.labels[i] for i in expected]


def test_digits_split_is_stratified_and_disjoint():
    train, test = open_source("digits", split="train"), open_source("digits", split="test")
    counts = np.bincount(test.labels)
    assert counts.min() >= 47 and counts.max() <= 53
    assert np.bincount(train.labels).sum() + counts.sum() == 1797
    assert test.labels[:8] == open_source("digits").labels[:8]


def test_ranks_see_each_sample_once():
    shares = []
    for rank in range(3):
        data = ImageDataModule("digits", subset=20, batch_size=4).prepare()
        data._process = lambda rank=rank: (rank, 3)
        shares.append(batches(data)["index"].tolist())
    drawn = np.random.RandomState(0).choice(500, 20, replace=False).tolist()
    assert shares == [drawn[rank::3] for rank in range(3)]


def test_training_order_and_augmentation_are_keyed():
    def epoch(workers: int) -> list[dict[str, torch.Tensor]]:
        data = ImageDataModule("digits", batch_size=300, crop_padding=1, flip=True, seed=3, workers=workers)
        return list(data.train_dataloader())

    first, again = epoch(0), epoch(1)
    assert len(first) == 4
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["index"], b["index"])
    assert torch.cat([batch["index"] for batch in first]).unique().numel() == 1200


def test_folder(folder: Path):
    data = ImageDataModule("folder", str(folder), batch_size=2).prepare()
    assert data.class_names == ["cat", "dog", "owl"]
    assert (data.num_classes, data.image_shape) == (3, (3, 8, 8))
    assert set(batches(data)["label"].tolist()) == {0, 2}
    resized = ImageDataModule("folder", str(folder), image_size=6).prepare()
    assert resized.image_shape == (3, 6, 6)


def test_broken_image_is_an_error_and_not_its_neighbour(folder: Path):
    (folder / "test" / "cat" / "2.png").write_bytes(b"no image")
    data = ImageDataModule("folder", str(folder))
    with pytest.raises(UnreadableError, match=r"^test/cat/2\.png cannot be read: it is no image"):
        batches(data)
    assert [*data.scan().unreadable] == [2], "the position of the file"
    with pytest.raises(ConfigError, match=r"data\.check: 1 of .* images cannot be read, such as: .*cat/2\.png"):
        ImageDataModule("folder", str(folder), check=True).prepare()


def test_every_image_is_part_of_what_a_subset_is():
    """Also those after the first 16, which earlier versions hashed."""
    source = ImageDataModule("digits").prepare().test_source
    other = replace(source, image=lambda index: source.image(index) + (index == 18))
    before, changed = scan(source, range(20)), scan(other, range(20))
    assert before.first == changed.first and before.every != changed.every
    few = scan(source, range(5))
    assert few.first == few.every and not few.unreadable


def test_the_first_readable_image_says_the_shape(folder: Path):
    shape = ImageDataModule("folder", str(folder)).prepare().image_shape
    (folder / "test" / "cat" / "0.png").write_bytes(b"no image")
    assert ImageDataModule("folder", str(folder)).prepare().image_shape == shape
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cat/0\.png cannot be read"):
        ImageDataModule("folder", str(folder)).prepare()


@pytest.mark.parametrize("name", ["hfds/uoft-cs/cifar10", "hfds"])
def test_local_folder_in_hub_layout(hub: Path, name: str):
    data = ImageDataModule(name, str(hub), batch_size=5, subset=6).prepare()
    assert (data.image_shape, data.num_classes, data.class_names) == ((3, 8, 8), 2, ["a", "b"])
    batch = batches(data)
    assert [index % 2 for index in batch["index"].tolist()] == batch["label"].tolist()
    expected = torch.from_numpy(np.stack([np.asarray(image) for image in pixels(7, seed=7)])).permute(0, 3, 1, 2)
    assert torch.equal(batch["image"], expected[batch["index"]].float() / 255)
    assert len(next(iter(data.train_dataloader()))["image"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, r"data\.name is 'imagenet'; accepted: cifar10_jpeg, digits, hfds/"),
        ({"name": "torch/nothing"}, r"data\.name is 'torch/nothing'; accepted: torch/cifar10, "),
        ({"name": "torch/imagenet"}, r"data\.root: must be given: the folder of torch/imagenet"),
        ({"name": "torch/imagenet", "root": ".", "test_split": "val"}, r"data\.root: torch/imagenet is not in \.: "),
        (
            {"name": "cifar10_jpeg", "root": "."},
            r"data\.root is '\.'; accepted: null: cifar10_jpeg comes with the package",
        ),
        (
            {"name": "cifar10_jpeg", "test_split": "train"},
            r"data\.test_split is 'train'; accepted: test; torch/cifar10",
        ),
        ({"name": "cifar10_jpeg", "subset": 513}, r"data\.subset is 513, but the test split has only 512 samples"),
        ({"name": "folder", "root": "/nowhere"}, r"data\.root is '/nowhere', which is no folder"),
        ({"name": "hfds", "root": "/nowhere"}, r"data\.root is '/nowhere', which is no folder"),
        ({"name": "hfds"}, r"data\.name: hfds needs a hub id"),
        ({"name": "digits", "subset": 501}, r"data\.subset is 501, but the test split has only 500 samples"),
        ({"name": "digits", "test_split": "val"}, r"data\.test_split is 'val'; accepted: train, test of digits"),
        ({"name": "digits", "batch_size": 0}, r"data\.batch_size is 0; accepted: 1 to 1000000"),
    ],
)
def test_one_clear_line(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message) as error:
        ImageDataModule(**arguments).prepare()
    assert "\n" not in str(error.value)


def test_missing_splits(folder: Path, hub: Path):
    with pytest.raises(ConfigError, match=r"data\.test_split is 'val'; accepted: .*test, train, the subfolders of "):
        ImageDataModule("folder", str(folder), test_split="val").prepare()
    with pytest.raises(ConfigError, match=r"data\.test_split: .*Unknown split \"val\""):
        ImageDataModule("hfds", str(hub), test_split="val").prepare()
    with pytest.raises(ConfigError, match=r"data\.train_split is 'extra'; accepted: train, test of digits"):
        ImageDataModule("digits", train_split="extra").setup("fit")


def test_more_in_a_batch_than_there_is():
    with pytest.raises(
        ConfigError, match=r"data\.batch_size is 2000, on each of 1 processes, but there are only 1297 training samples"
    ):
        ImageDataModule("digits", batch_size=2000).train_dataloader()


def test_embedded_cifar10_jpeg():
    data = ImageDataModule("cifar10_jpeg", batch_size=64).prepare()
    assert (data.image_shape, data.num_classes, len(data.test_source)) == ((3, 32, 32), 10, 10_000)
    assert data.indices == np.random.RandomState(0).choice(10_000, 512, replace=False).tolist()
    batch = batches(data)
    assert batch["image"].shape == (512, 3, 32, 32) and 0.3 < float(batch["image"].mean()) < 0.6
    assert batch["label"].bincount().tolist() == [46, 60, 51, 51, 49, 43, 48, 54, 54, 56]
    assert ImageDataModule("cifar10_jpeg", subset=5, subset_skip=7).prepare().indices == data.indices[7:12]
    assert ImageDataModule("cifar10_jpeg", subset=1, image_size=48).prepare().image_shape == (3, 48, 48)


@pytest.mark.data
@pytest.mark.skipif(not LAB.is_dir(), reason=f"needs CIFAR-10 (JPEG) in {LAB}")
def test_embedded_images_are_those_of_the_whole_copy():
    whole = ImageDataModule("hfds/uoft-cs/cifar10", str(LAB), subset=512).prepare()
    data = ImageDataModule("cifar10_jpeg").prepare()
    assert data.indices == whole.indices and data.class_names == whole.class_names
    assert data.test_source.labels == whole.test_source.labels
    for index in data.indices:
        assert torch.equal(data.test_source.image(index), whole.test_source.image(index))


def write_cifar10(archive: Path) -> dict[str, Any]:
    """An archive laid out as CIFAR-10's, of two images a batch; returns torchvision's checksums for it."""
    files: dict[str, bytes] = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        files[name] = pickle.dumps({"data": np.full((2, 3072), len(files), np.uint8), "labels": [1, 3]})
    files["batches.meta"] = pickle.dumps({"label_names": ["a", "b", "c", "d"]})
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    return {
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "train_list": [[name, sums[name]] for name in files if name.startswith("data")],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
    }


def test_torchvisions_data_are_downloaded_once(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
):
    folder, address = server
    checksums = write_cifar10(folder / "cifar-10-python.tar.gz")
    for name, value in {"url": f"{address}/cifar-10-python.tar.gz", **checksums}.items():
        monkeypatch.setattr(f"torchvision.datasets.CIFAR10.{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for root in (None, str(tmp_path / "new" / "root")):
        data = ImageDataModule("torch/cifar10", root).prepare()
        assert (data.image_shape, data.class_names) == ((3, 32, 32), ["a", "b", "c", "d"])
        assert data.test_source.labels == [1, 3] and data.test_source.image(0).unique().tolist() == [5]
    assert (tmp_path / "home/.cache/hetpure/cifar-10-batches-py/test_batch").is_file()
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", f"{address}/nothing")
    assert len(open_source("torch/cifar10", None, "train")) == 10
    with pytest.raises(AbsentError, match=r"data\.root: torch/cifar10 is not in .*/other and cannot be downloaded: "):
        ImageDataModule("torch/cifar10", str(tmp_path / "other")).prepare()


def test_folders_named_as_imagenets_classes_have_its_labels(tmp_path: Path):
    for name in ("n02979186", "n01440764"):  # of Imagenette: cassette player, tench
        (tmp_path / "test" / name).mkdir(parents=True)
        pixels(1)[0].save(tmp_path / "test" / name / "a.png")
    data = ImageDataModule("folder", str(tmp_path)).prepare()
    assert data.num_classes == 1000 and sorted(data.test_source.labels) == [0, 482]
    assert data.class_names is not None and (data.class_names[0], data.class_names[482]) == ("tench", "cassette player")
    own = ImageDataModule("folder/own_classes", str(tmp_path)).prepare()
    assert (own.num_classes, own.class_names) == (2, ["tench", "cassette player"])
    (tmp_path / "test" / "other").mkdir()
    assert ImageDataModule("folder", str(tmp_path)).prepare().num_classes == 3
