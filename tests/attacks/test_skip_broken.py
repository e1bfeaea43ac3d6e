"""``skip_broken``: an image leaves PGD early where it is surely broken, and by no luck of a single trial."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import Evaluation, ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import check_attack_keys, complete_attack
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.noise import selection_draws
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs.read import read_run
from tests.attacks.test_search import LABEL, SAMPLE
from tests.evaluation import jobs
from tests.toys import images

NEVER = 99


class Scripted:
    """A source to which images become brighter by steps of 0.01; each is broken from some step on.

    Attributes:
        draws: from which iteration all draws of a sample's gradient are wrong.
        first, second: from which iteration all draws of its first, and of its second trial are.
    """

    seed, eot = 0, 2

    def __init__(self, draws: list[int], first: list[int], second: list[int], stochastic: bool = True) -> None:
        self.stochastic = stochastic
        self.since = {name: dict(zip(SAMPLE.tolist(), values, strict=True)) for name, values in
                      (("draws", draws), ("first", first), ("second", second))}  # fmt: skip
        self.asked: list[tuple[int, list[int]]] = []
        self.tried: list[tuple[list[int], int, int]] = []

    def correct(self, x: Tensor, sample: Tensor, name: str) -> Tensor:
        steps = ((x[:, 0, 0, 0] - 0.2) / 0.01).round()
        since = torch.tensor([self.since[name][index] for index in sample.tolist()])
        return torch.where(steps >= since, 0.0, 0.5)

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.asked.append((iteration, sample.tolist()))
        return Gradient(torch.ones_like(x), x.new_zeros(len(x)), self.correct(x, sample, "draws"))

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        self.tried.append((sample.tolist(), count, first))
        correct = self.correct(x, sample, "second" if first >= 7 else "first")
        return Evaluation(correct, x.new_zeros(len(x)), count)


def attacked(source: Scripted, steps: int = 12, **more) -> list[int]:
    """After how many steps of 0.01 each image is returned."""
    attack = PGD("Linf", 0.5, steps, 0.01, evaluations=7, skip_broken=True, **more)
    x = torch.full((4, 1, 2, 2), 0.2)
    found = attack(source, x, LABEL, SAMPLE, lambda i, g: None)  # pyright: ignore[reportArgumentType]
    return ((found - x)[:, 0, 0, 0] / 0.01).round().int().tolist()


def test_an_image_leaves_where_it_is_found_broken_twice_in_a_row() -> None:
    """Broken when clean; from step 3 on, which is looked at after 4; in one trial alone, never in both; never."""
    source = Scripted(draws=[0, 3, 0, NEVER], first=[0, 3, 0, 0], second=[0, 3, NEVER, 0])
    assert attacked(source) == [0, 4, 12, 12]
    a, b, c, d = SAMPLE.tolist()
    assert source.asked == [(i, [a, b, c, d] if i == 0 else [b, c, d] if i <= 4 else [c, d]) for i in range(12)]
    # Tried out is only what every draw of its gradient got wrong: by 7 draws, the first 2 alone, and by 7 others.
    each = [[a, c], [c], [c], [b, c], [c]]  # of the clean images, and after 1, 2, 4 and 8 steps
    assert source.tried == [(who, *part) for who in each for part in ((2, 0), (5, 2), (7, 7))]


def test_a_second_trial_follows_only_a_first_that_was_all_wrong() -> None:
    source = Scripted(draws=[0] * 4, first=[NEVER] * 4, second=[0] * 4)
    assert attacked(source, steps=2) == [2] * 4
    assert [part for _, *part in source.tried] == [[2, 0], [2, 0]]


def test_all_may_leave_and_iterations_are_still_counted() -> None:
    seen: list[int] = []
    source = Scripted(draws=[0] * 4, first=[0] * 4, second=[0] * 4)
    attack = PGD("Linf", 0.5, 5, 0.01, skip_broken=True)
    x = torch.full((4, 1, 2, 2), 0.2)
    assert torch.equal(attack(source, x, LABEL, SAMPLE, lambda i, g: seen.append(i)), x)  # pyright: ignore
    assert seen == [*range(5)] and len(source.asked) == 1


def test_what_is_not_random_is_tried_once() -> None:
    source = Scripted(draws=[0] * 4, first=[0] * 4, second=[NEVER] * 4, stochastic=False)
    assert attacked(source) == [0] * 4
    assert len(source.tried) == 1


def test_the_second_trial_has_draws_of_its_own() -> None:
    first, second = (selection_draws(0, SAMPLE, 3, first) for first in (0, 3))
    assert first.process == second.process == "selection"
    assert not {*first.draw.tolist()} & {*second.draw.tolist()}


@pytest.fixture(scope="module")
def gradient(denoiser, classifier) -> ExactGradient:
    process = PurifiedClassifier(classifier, UniformPurifier(Recomputed(denoiser), 0.1, 20), 10, chunk_size=8)
    return ExactGradient(process, 2, 0)


def labels(gradient: ExactGradient, x: Tensor, sample: Tensor) -> Tensor:
    """What the defense mostly says, but for the first image."""
    label = gradient.scores(x, sample, 4).argmax(dim=1)
    label[0] = (label[0] + 1) % 10
    return label


def test_what_stays_is_attacked_as_ever_and_batches_agree_bit_for_bit(gradient: ExactGradient) -> None:
    x, sample = images(5), torch.arange(5) * 7
    label = labels(gradient, x, sample)
    plain = PGD("Linf", 0.1, 6, 0.02, evaluations=2)(gradient, x, label, sample)
    attack = PGD("Linf", 0.1, 6, 0.02, evaluations=2, skip_broken=True)
    traces: list = []
    found = AdversarialAttack(attack, gradient).attacked(x, label, sample)
    stayed = torch.tensor([trace.left_after is None for trace in found.traces])
    assert 0 < stayed.sum() < 5 and found.traces[0].left_after == 0
    assert torch.equal(found.images[stayed], plain[stayed]) and torch.equal(found.images[0], x[0])
    for trace in found.traces:
        assert len(trace.loss) == (6 if trace.left_after is None else trace.left_after + 1)
        assert trace.trials >= (0 if trace.left_after is None else 4)
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        traces += (of_part := AdversarialAttack(attack, gradient).attacked(x[part], label[part], sample[part])).traces
        assert torch.equal(of_part.images, found.images[part])
    assert traces == found.traces


def test_images_on_the_way_are_those_of_shorter_attacks(gradient: ExactGradient) -> None:
    """Also of images that have left before, or all of which have."""
    x, sample = images(5), torch.arange(5) * 7
    label = labels(gradient, x, sample)
    for rows in (slice(0, 5), slice(0, 1)):
        of = x[rows], label[rows], sample[rows]
        numbers = (1, 2, 3, 5)
        attack = PGD("Linf", 0.1, 6, 0.02, evaluations=2, skip_broken=True)
        found = AdversarialAttack(attack, gradient, checkpoints=numbers).attacked(*of)
        assert [*found.checkpoints] == [*numbers]
        for n, image in found.checkpoints.items():
            shorter = PGD("Linf", 0.1, n, 0.02, evaluations=2, skip_broken=True)
            assert torch.equal(image, shorter(gradient, *of)), n


def test_records_say_who_left_and_what_was_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}
    settings = ["data.subset=6", "data.batch_size=4", "attack.eot=2", "ensemble.size=2", "chunk_size=4",
                "attack.steps=6", "attack.step_size=0.1", "attack.evaluations=3", "attack.checkpoints=[3]"]  # fmt: skip
    skip, plain = tmp_path / "skip", tmp_path / "plain"
    assert jobs.evaluate(skip, rows, *settings, "attack.skip_broken=true") == 0
    out = capsys.readouterr().out
    assert jobs.evaluate(plain, rows, *settings) == 0
    records, others = ({r.index: r for r in read_run(folder).methods[0].store.read()} for folder in (skip, plain))
    left = [r for r in records.values() if r.left_after is not None]
    assert 0 < len(left) < 6, "nothing to see"
    assert f"uniform: {len(left)} of 6 images left the attack early, surely broken" in " ".join(out.split())
    for r in records.values():
        assert len(r.attack_loss) == (6 if r.left_after is None else r.left_after + 1)
        other = others[r.index]
        assert other.left_after is None and other.trials == 0
        assert other.attack_loss[: len(r.attack_loss)] == r.attack_loss
        if r.left_after is None:
            assert r.adversarial_scores
            assert (r.adversarial_scores, r.checkpoints) == (other.adversarial_scores, other.checkpoints)
        else:
            assert r.trials >= 6
            assert r.left_after > 3 or r.checkpoints == {"3": r.adversarial}, "who has left keeps the last image"
    lines = (plain / "uniform" / "samples-000.jsonl").read_text()
    assert "left_after" not in lines and "trials" not in lines, "without it records are as they were"


class OwnPGD(PGD):
    """An attack of a user's, with PGD's keys."""


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": f"{__name__}:OwnPGD", "gradient": "blind"}, "bare classifier"),
        ({"name": "pgd", "restarts": 2}, "attack.skip_broken is True; accepted: false with restarts"),
        ({"name": "pgd", "gradient": "blind"}, "bare classifier"),
        ({"name": "pgd", "process": {"name": "none"}}, "bare classifier"),
        ({"name": "momentum_pgd"}, "momentum_pgd has no such key: it leaves broken images out by itself"),
        ({"name": "recommended"}, "momentum_pgd has no such key: it leaves broken images out by itself"),
        ({"name": "stadv"}, "stadv has no such key: it cannot leave single images out"),
    ],
)
def test_where_it_does_not_apply_it_is_refused(settings: dict, problem: str) -> None:
    for complete in (complete_attack, check_attack_keys) if "no such key" in problem else (complete_attack,):
        with pytest.raises(ValueError, match=problem):
            complete({**settings, "skip_broken": True})
