"""The worst case over saved images: the choice is right, and is made without the defender's draws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.registry import complete_attack
from hetpure.attacks.strongest import StrongestOf
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import AbsentError, ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.noise import Draws
from hetpure.purification.base import Purifier
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore
from tests.toys import images

EPS = 0.2
SAMPLE, LABEL = torch.tensor([4, 9, 30]), torch.ones(3, dtype=torch.long)
CLEAN = torch.full((3, 1, 8, 8), 0.6)
A = {4: 0.45, 9: 0.7, 30: 0.55}  # brightness of each image; below 0.5 it is class 0, which is wrong
B = {4: 0.7, 9: 0.45, 30: 0.65}
CHOSEN = [0.45, 0.45, 0.55]


class ByBrightness(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - brightness, brightness - 0.5], dim=1)


class TwoFaced(Purifier):
    """Adds noise of its draws; to whomever does not select it shows the negative, so that weak images look strong."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        self.seen.add(draws.process)
        noisy = x + 0.02 * draws.normal_like(x, "noise", 0)
        return noisy if draws.process == "selection" else 1.0 - noisy


def defense(seed: int = 0) -> PurifiedClassifier:
    return PurifiedClassifier(Classifier(ByBrightness(), [0.0], [1.0]), TwoFaced(), 2, 3, chunk_size=4, seed=seed)


def saved(folder: Path, brightness: dict[int, float]) -> str:
    images = np.stack([np.full((1, 8, 8), value, np.float32) for value in brightness.values()])
    np.savez(folder, images=images, indices=np.array([*brightness]))
    return str(folder.with_suffix(".npz"))


def row(folder: Path, brightness: dict[int, float], failed: tuple[int, ...] = ()) -> str:
    """A row's folder, with samples that failed."""
    store, images = RecordStore(folder), {k: np.full((1, 8, 8), v, np.float32) for k, v in brightness.items()}
    name = store.image_name(images)
    records = [Record(index, "one-shot", 1, [1], [[0.0, 1.0]], image=name) for index in images]
    store.append([*records, *(Record(index, "one-shot", 1, [], [], failure="planted") for index in failed)], images)
    return folder.name


@pytest.fixture
def attack(tmp_path: Path) -> StrongestOf:
    attack = StrongestOf("Linf", EPS, folders=[saved(tmp_path / "a", A), saved(tmp_path / "b", B)], evaluations=5)
    attack.check_images(SAMPLE.tolist(), dict(zip(SAMPLE.tolist(), CLEAN, strict=True)).__getitem__)
    return attack


def brightness(x: Tensor) -> list[float]:
    return [round(float(value), 4) for value in x.mean(dim=(1, 2, 3))]


def test_each_sample_gets_its_strongest_image(attack: StrongestOf) -> None:
    assert brightness(attack(ExactGradient(defense(), 1, 0), CLEAN, LABEL, SAMPLE)) == CHOSEN


def test_the_choice_never_sees_the_defenders_draws(attack: StrongestOf) -> None:
    """The defender's outcomes are the opposite of those that select, and neither they nor their seed change it."""
    for seed in (0, 1):
        process = defense(seed)
        chosen = attack(ExactGradient(process, 1, 0), CLEAN, LABEL, SAMPLE)
        assert isinstance(process.purifier, TwoFaced) and process.purifier.seen == {"selection"}
        assert brightness(chosen) == CHOSEN
        right = process(chosen, SAMPLE).argmax(dim=1) == LABEL
        assert process.purifier.seen == {"selection", "defense"}
        assert right.tolist() == [True, True, False], "the defender, who judges, finds the others stronger"


def test_rows_are_independent_of_the_batch(tmp_path: Path, denoiser, classifier) -> None:
    x, label, sample = images(4), torch.tensor([1, 2, 3, 4]), torch.tensor([9, 7, 5, 3])
    folders = []
    for seed in (1, 2, 3):
        moved = (x + EPS * (2 * images(4, seed=10 + seed) - 1)).clamp(0, 1)
        np.savez(tmp_path / str(seed), images=moved.numpy(), indices=sample.numpy())
        folders.append(str(tmp_path / f"{seed}.npz"))
    attack = StrongestOf("Linf", EPS, folders=folders, evaluations=3)
    attack.check_images(sample.tolist(), dict(zip(sample.tolist(), x, strict=True)).__getitem__)
    process = PurifiedClassifier(classifier, UniformPurifier(denoiser, 0.2, 10), 10, ensemble_size=2, chunk_size=4)
    source = ExactGradient(process, 1, 0)
    whole = attack(source, x, label, sample)
    alone = [attack(source, x[i : i + 1], label[i : i + 1], sample[i : i + 1]) for i in (2, 0, 3, 1)]
    assert torch.equal(torch.cat(alone), whole[[2, 0, 3, 1]])
    shares = torch.stack([source.evaluate(c, label, sample, 3).correct for _, c in attack.candidates(x, sample)])
    assert torch.equal(source.evaluate(whole, label, sample, 3).correct, shares.amin(dim=0)) and len({*shares[:, 0]})


def test_images_from_elsewhere_are_named_by_the_end_of_their_path(tmp_path: Path) -> None:
    for seed in "01":
        row(tmp_path / seed / "uniform", A)
    attack = StrongestOf("Linf", EPS, folders=[str(tmp_path / seed / "uniform") for seed in "01"])
    assert str(attack).startswith("strongest of 0/uniform, 1/uniform; Linf")


def test_images_of_rows_are_read_when_a_batch_is_attacked(tmp_path: Path) -> None:
    attack = StrongestOf("Linf", EPS, rows=["m/a", "m/b"], evaluations=3)
    attack.find_rows(tmp_path)
    attack.check_images(SAMPLE.tolist(), lambda index: CLEAN[0])  # before the run: nothing is there
    row(tmp_path / "m" / "a", A)
    row(tmp_path / "m" / "b", B)
    assert brightness(attack(ExactGradient(defense(), 1, 0), CLEAN, LABEL, SAMPLE)) == CHOSEN
    assert str(attack) == "strongest of a, b; Linf eps 51/255, chosen per image by 3 draws of the attacker's own"


def test_a_sample_that_failed_is_chosen_from_what_is_left(tmp_path: Path) -> None:
    row(tmp_path / "a", {9: 0.7}, failed=(4, 30))
    row(tmp_path / "b", {4: 0.7, 9: 0.45}, failed=(30,))
    attack = StrongestOf("Linf", EPS, rows=["a", "b"], evaluations=3)
    attack.find_rows(tmp_path)
    found = AdversarialAttack(attack, ExactGradient(defense(), 1, 0)).attacked(CLEAN, LABEL, SAMPLE)
    assert brightness(found.images) == [0.7, 0.45, 0.6]
    assert found.failures == {30: "no image to choose from: the sample failed in a and b"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.pop(9), "rows: .*b has no image of sample 9"),
        (lambda x: x.__setitem__(9, 0.9), "rows: .*b: the image of sample 9 is 0.3 from the clean image"),
    ],
)
def test_a_rows_image_that_cannot_be_is_named(tmp_path: Path, change: Callable, said: str) -> None:
    changed = dict(B)
    change(changed)
    row(tmp_path / "a", A)
    row(tmp_path / "b", changed)
    attack = StrongestOf("Linf", EPS, rows=["a", "b"])
    with pytest.raises(ConfigError, match="part of none"):
        attack(ExactGradient(defense(), 1, 0), CLEAN, LABEL, SAMPLE)
    attack.find_rows(tmp_path)
    with pytest.raises(ConfigError, match=said):
        attack(ExactGradient(defense(), 1, 0), CLEAN, LABEL, SAMPLE)


def test_images_from_elsewhere_are_checked_and_hashed_before_a_run(tmp_path: Path, attack: StrongestOf) -> None:
    again = StrongestOf("Linf", 0.1, folders=[saved(tmp_path / "a", A), saved(tmp_path / "c", B)])
    with pytest.raises(ConfigError, match=r"folders: .*the image of sample 4 is 0.15 from the clean image"):
        again.check_images(SAMPLE.tolist(), lambda index: CLEAN[0])
    again = StrongestOf("Linf", EPS, folders=[saved(tmp_path / "a", A), saved(tmp_path / "c", {**B, 4: 0.65})])
    again.check_images(SAMPLE.tolist(), lambda index: CLEAN[0])
    assert attack.content and again.content and attack.content != again.content


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "attack.rows is .*; accepted: two or more different rows and folders"),
        ({"rows": ["a"]}, "two or more"),
        ({"rows": ["a", "a"]}, "two or more different"),
        ({"rows": ["a", "b"], "evaluations": 0}, "attack.evaluations is 0"),
        ({"rows": ["a", "b"], "norm": "StAdv"}, "attack.norm: Invalid value 'StAdv'"),
        (
            {"rows": ["a", "b"], "gradient": "bpda"},
            "attack.gradient is .*accepted: no attack.gradient with strongest_of",
        ),
        (
            {"rows": ["a", "b"], "process": {"grid_size": 9}},
            "attack.process is .*accepted: no attack.process with strongest_of",
        ),
        (
            {"rows": ["a", "b"], "precision": "bfloat16"},
            "attack.precision is 'bfloat16'; accepted: no attack.precision with",
        ),
        ({"rows": ["a", "b"], "checkpoints": [1]}, r"attack.checkpoints is \[1\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        complete_attack({"name": "strongest_of", "norm": "Linf", "eps": 0.1, **settings})
    with pytest.raises(AbsentError, match=r"attack.folders is 'nowhere', does not exist"):
        complete_attack({"name": "strongest_of", "norm": "Linf", "eps": 0.1, "folders": ["nowhere", "b"]})
