"""Images made elsewhere: every form that is read, and what is refused before anything is judged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hetpure.attacks.saved import SavedImages
from hetpure.errors import AbsentError, ConfigError
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore

INDICES = [7, 2, 300]
EPS = 0.1


@pytest.fixture
def clean() -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {index: torch.rand(3, 8, 8, generator=draw) for index in INDICES}


@pytest.fixture
def adversarial(clean) -> dict[int, np.ndarray]:
    draw = np.random.default_rng(1)
    moved = {k: x.numpy() + EPS * draw.choice([-1.0, 1.0], x.shape) for k, x in clean.items()}
    return {k: x.clip(0.0, 1.0).astype(np.float32) for k, x in moved.items()}


def as_run_row(folder: Path, images: dict[int, np.ndarray]) -> Path:
    store = RecordStore(folder / "row")
    name = store.image_name(images)
    store.append([Record(index, "one-shot", 0, [0], [[1.0]], image=name) for index in images], images)
    return store.folder


def as_named_arrays(folder: Path, images: dict[int, np.ndarray]) -> Path:
    np.savez(folder / "x.npz", **{f"{index:06d}": image for index, image in images.items()})
    return folder / "x.npz"


def as_images_and_indices(folder: Path, images: dict[int, np.ndarray]) -> Path:
    order = sorted(images)
    np.savez(folder / "x.npz", images=np.stack([images[k] for k in order]), indices=np.array(order))
    return folder / "x.npz"


def in_subset_order(folder: Path, images: dict[int, np.ndarray]) -> Path:
    np.save(folder / "x.npy", np.stack(list(images.values())))
    return folder / "x.npy"


def as_autoattack_saves(folder: Path, images: dict[int, np.ndarray]) -> Path:
    torch.save({"adv_complete": torch.from_numpy(np.stack(list(images.values())))}, folder / "x.pt")
    return folder / "x.pt"


FORMS = [as_run_row, as_named_arrays, as_images_and_indices, in_subset_order, as_autoattack_saves]


def judged(attack: SavedImages, clean: dict[int, torch.Tensor], indices: list[int] = INDICES) -> torch.Tensor:
    attack.check_images(INDICES, clean.__getitem__)
    x = torch.stack([clean[index] for index in indices])
    gradient: object = None
    return attack(gradient, x, torch.zeros(len(x)), torch.tensor(indices))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_images_and_one_hash(tmp_path: Path, clean, adversarial, form: Callable) -> None:
    attack = SavedImages(str(form(tmp_path, adversarial)), "Linf", EPS)
    found = judged(attack, clean, [300, 7])
    assert np.array_equal(found.numpy(), np.stack([adversarial[300], adversarial[7]]))
    other = SavedImages(str(as_named_arrays(tmp_path, adversarial)), "Linf", EPS)
    other.check_images(INDICES, clean.__getitem__)
    assert attack.content == other.content and attack.threat == ("Linf", EPS)
    adversarial[2][0, 0, 0] = clean[2][0, 0, 0]
    other = SavedImages(str(as_named_arrays(tmp_path, adversarial)), "Linf", EPS)
    other.check_images(INDICES, clean.__getitem__)
    assert attack.content != other.content


def test_pictures_may_be_half_a_level_further_away_and_the_table_says_so(tmp_path: Path, clean, adversarial) -> None:
    for index, image in adversarial.items():
        pixels = np.moveaxis((image * 255).round().astype(np.uint8), 0, -1)
        Image.fromarray(pixels).save(tmp_path / f"{index:05d}.png")
    attack = SavedImages(str(tmp_path), "Linf", EPS)
    found = judged(attack, clean)
    assert abs(found.numpy() - np.stack(list(adversarial.values()))).max() <= 0.5 / 255 + 1e-6
    assert attack.threat is not None and EPS < attack.threat.eps <= EPS + 0.5 / 255
    assert "rounded to 8 bits (0.5/255 more allowed" in str(attack)
    with pytest.raises(ConfigError, match="for 8 bits"):
        judged(SavedImages(str(tmp_path), "Linf", EPS - 1 / 255), clean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__(2, x[2] + 0.2), "sample 2 (is|has values)"),
        (lambda x: x[2].__setitem__((0, 0, 0), np.nan), "sample 2 has values from nan"),
        (lambda x: x[300].__setitem__((0, 0, 0), -0.01), r"sample 300 has values from -0.01 to 1"),
        (lambda x: x.__setitem__(7, x[7][:, :4]), r"sample 7 has shape \(3, 4, 8\), the clean image \(3, 8, 8\)"),
        (lambda x: x.pop(300), r"no image of sample 300 \(1 are missing\)"),
    ],
)
def test_the_first_offender_is_named(tmp_path: Path, clean, adversarial, change: Callable, message: str) -> None:
    change(adversarial)
    with pytest.raises(ConfigError, match=message):
        judged(SavedImages(str(as_named_arrays(tmp_path, adversarial)), "Linf", EPS), clean)


def test_a_value_beyond_eps_by_more_than_rounding_is_refused(tmp_path: Path, clean) -> None:
    for extra, fits in ((1e-7, True), (1e-6, False)):
        images = {index: x.numpy().copy() for index, x in clean.items()}
        images[2][0, 0, 0] += (1.0 if images[2][0, 0, 0] < 0.5 else -1.0) * (EPS + extra)
        attack = SavedImages(str(as_named_arrays(tmp_path, images)), "Linf", EPS)
        if fits:
            judged(attack, clean)
        else:
            with pytest.raises(ConfigError, match=r"the image of sample 2 is 0\.100001 from the clean image"):
                judged(attack, clean)


def test_what_cannot_be_read_is_a_line(tmp_path: Path, clean, adversarial) -> None:
    with pytest.raises(AbsentError, match="does not exist"):
        SavedImages(str(tmp_path / "nowhere"), "Linf", EPS)
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"x\.npz cannot be read"):
        judged(SavedImages(str(tmp_path / "x.npz"), "Linf", EPS), clean)
    with pytest.raises(ConfigError, match="pictures named by dataset index"):
        judged(SavedImages(str(tmp_path), "Linf", EPS), clean)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ConfigError, match="has 2 images for 3 samples"):
        judged(SavedImages(str(tmp_path / "x.npy"), "Linf", EPS), clean)
