import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hetpure.attacks.gradients import ExactGradient, Gradient, GradientWrapper
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.norms import NORMS
from hetpure.attacks.pgd import PGD
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.classifiers import Classifier
from hetpure.purification.none import NoPurifier
from tests.toys import images, rows, tiny_classifier

LABEL = torch.tensor([0, 1, 0])
SAMPLE = torch.arange(3)


class Constant:
    """The same gradient everywhere; remembers where it was asked."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.asked: list[tuple[int, Tensor]] = []

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.asked.append((iteration, x.clone()))
        return Gradient(self.value, torch.zeros(len(x)), torch.zeros(len(x)))


def linear(shape: tuple[int, int, int], seed: int = 0) -> tuple[ExactGradient, Tensor]:
    """A two-class linear classifier, and the difference w_1 - w_0 of its rows as an image."""
    torch.manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, 2))
    model = PurifiedClassifier(
        Classifier(network, [0.0], [1.0]).eval().requires_grad_(False), NoPurifier(), 2, chunk_size=4
    )
    weight = network[1].weight
    return ExactGradient(model, eot=1, seed=0), (weight[1] - weight[0]).view(shape).detach()  # pyright: ignore


def test_linf_reaches_the_closed_form_optimum_on_a_linear_classifier() -> None:
    """The loss is monotone in (w_other - w_true) . x: every pixel goes to its bound of the ball and the box."""
    gradient, difference = linear((1, 8, 8))
    x = images(3)
    found = PGD("Linf", eps=0.1, steps=20, step_size=0.02)(gradient, x, LABEL, SAMPLE)
    away = torch.stack([difference if label == 0 else -difference for label in LABEL])
    torch.testing.assert_close(found, (x + 0.1 * away.sign()).clamp(0, 1), rtol=0, atol=1e-6)
    assert ((found == 0) | (found == 1)).any(), "the box was never met"


def test_l2_reaches_the_closed_form_optimum_on_a_linear_classifier() -> None:
    """Away from the box's faces: eps along the unit vector of w_other - w_true."""
    gradient, difference = linear((1, 8, 8))
    x = 0.4 + 0.2 * images(3)
    found = PGD("L2", eps=0.3, steps=20, step_size=0.05)(gradient, x, LABEL, SAMPLE)
    away = torch.stack([difference if label == 0 else -difference for label in LABEL])
    torch.testing.assert_close(found, x + 0.3 * away / difference.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_there_is_no_random_start_and_every_iteration_sees_the_last_ones_result(norm: str) -> None:
    x = images(3)
    gradient = Constant(torch.randn(3, 1, 8, 8))
    found = PGD(norm, eps=0.5, steps=4, step_size=0.01)(gradient, x, LABEL, SAMPLE)
    assert [iteration for iteration, _ in gradient.asked] == [0, 1, 2, 3]
    assert torch.equal(gradient.asked[0][1], x)
    images_seen = [seen for _, seen in gradient.asked]
    for before, after in zip(images_seen, [*images_seen[1:], found], strict=True):
        expected = (before + 0.01 * NORMS[norm].direction(gradient.value)).clamp(0, 1)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)
    again = PGD(norm, eps=0.5, steps=4, step_size=0.01)(Constant(gradient.value), x, LABEL, SAMPLE)
    assert torch.equal(found, again)


def test_linf_steps_along_the_sign() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    gradient = Constant(torch.tensor([[[[3.0, -1e-8], [0.0, 100.0]]]]))
    found = PGD("Linf", eps=0.5, steps=1, step_size=0.007)(gradient, x, LABEL[:1], SAMPLE[:1])
    torch.testing.assert_close(found - x, 0.007 * torch.tensor([[[[1.0, -1.0], [0.0, 1.0]]]]), rtol=0, atol=1e-7)


def test_l2_steps_have_their_length_for_each_image_by_itself() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    value = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, -1e-30]]]])  # its square is 0
    found = PGD("L2", eps=0.5, steps=1, step_size=0.1)(Constant(value), x, LABEL[:2], SAMPLE[:2])
    expected = torch.tensor([[[[0.06, 0.08], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, -0.1]]]])
    torch.testing.assert_close(found - x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("random_start", "restarts", "at_random"),
    [(True, 1, [1]), (False, 3, [0, 1, 1]), (True, 2, [1, 1])],
)
def test_runs_start_where_they_should(random_start: bool, restarts: int, at_random: list[int]) -> None:
    """The first run at the image unless told otherwise, later ones at points of the ball's surface of their own."""
    asked: list[Tensor] = []

    class Asked(GradientWrapper):
        def __call__(
            self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]
        ) -> Gradient:
            asked.append(x)
            return self.source(x, label, sample, iteration, loss)

    gradient, difference = linear((1, 8, 8))
    x = 0.4 + 0.2 * images(1)
    label = (x * difference).sum() > 0
    attack = PGD("Linf", 1e-4, 2, 1e-4, random_start=random_start, restarts=restarts)
    attack(Asked(gradient), x, label.long().view(1), SAMPLE[:1])
    starts = asked[::2]
    furthest = [float((start - x).abs().max()) for start in starts]
    assert furthest == pytest.approx([1e-4 * far for far in at_random], abs=1e-6)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(starts, 2))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_gradient_is_no_step(norm: str) -> None:
    x = images(3)
    found = PGD(norm, eps=0.5, steps=2)(Constant(torch.zeros(3, 1, 8, 8)), x, LABEL, SAMPLE)
    assert torch.equal(found, x)


@pytest.mark.parametrize("eps", [0.0, 8 / 255, 0.3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_iterate_stays_in_the_ball_and_in_0_1(norm: str, eps: float) -> None:
    torch.manual_seed(1)
    x = images(3)
    x[0, 0, :4] = x[0, 0, :4].round()  # pixels on the box's faces

    class Wild(Constant):
        def __call__(
            self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]
        ) -> Gradient:
            self.value = torch.randn(3, 1, 8, 8)
            return super().__call__(x, label, sample, iteration, loss)

    gradient = Wild(torch.zeros(1))
    found = PGD(norm, eps, steps=10, step_size=0.2)(gradient, x, LABEL, SAMPLE)
    for adversarial in [seen for _, seen in gradient.asked] + [found]:
        change = (adversarial - x).flatten(1)
        length = change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)
        assert length.max() <= eps + 1e-6
        assert adversarial.min() >= 0 and adversarial.max() <= 1
    if eps:
        assert length.max() > 0.5 * eps


def test_random_directions_are_the_draws_normalised() -> None:
    """Their keys are part of every published result with random starts."""
    x, draws = images(2, dtype=torch.float64), rows(2, process="attack")
    cube = 2.0 * draws.uniform("start", 0, (1, 8, 8), torch.float64) - 1.0
    assert torch.equal(NORMS["Linf"].noise(draws, x), cube / cube.abs().amax(dim=(1, 2, 3), keepdim=True))
    normal = draws.normal("start", 0, (1, 8, 8), torch.float64)
    torch.testing.assert_close(NORMS["L2"].noise(draws, x), normal / normal.flatten(1).norm(dim=1).view(2, 1, 1, 1))


def test_projection_is_the_nearest_point() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    far = torch.tensor([[[[0.9, 0.2]]]])  # 0.5 away in L2
    torch.testing.assert_close(NORMS["Linf"].project(far, x, 0.1), torch.tensor([[[[0.6, 0.4]]]]))
    torch.testing.assert_close(NORMS["L2"].project(far, x, 0.25), torch.tensor([[[[0.7, 0.35]]]]))
    torch.testing.assert_close(NORMS["L2"].project(far, x, 0.6), far)


def test_the_observer_sees_every_iteration() -> None:
    seen = []
    gradient = Constant(torch.ones(3, 1, 8, 8))
    PGD("Linf", 0.1, 3)(gradient, images(3), LABEL, SAMPLE, observe=lambda i, found: seen.append((i, found.value)))
    assert [i for i, _ in seen] == [0, 1, 2] and all(value is gradient.value for _, value in seen)


def test_the_attack_raises_the_loss_of_a_network() -> None:
    classifier = tiny_classifier()
    x, label = images(8), torch.arange(8)
    gradient = ExactGradient(PurifiedClassifier(classifier, NoPurifier(), 10, chunk_size=8), 1, 0)
    before = functional.cross_entropy(classifier(x), label, reduction="none")
    for norm, eps in (("Linf", 0.05), ("L2", 0.4)):
        found = PGD(norm, eps, steps=20, step_size=eps / 5)(gradient, x, label, torch.arange(8))
        assert (functional.cross_entropy(classifier(found), label, reduction="none") > before).all()


def test_norms_by_name() -> None:
    assert set(NORMS) == {"Linf", "L2"}


def test_the_papers_attack_is_the_default() -> None:
    attack = PGD()
    assert (attack.norm, attack.eps, attack.steps, attack.step_size) == ("Linf", 8 / 255, 200, 0.007)
    assert attack.evaluations == 20 and PGD(steps=5, restarts=3).steps == 15


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("norm", ("L1", 0.1, 10, 0.007)),
        ("eps", ("Linf", -0.1, 10, 0.007)),
        ("eps", ("L2", float("nan"), 10, 0.007)),
        ("eps", ("L2", float("inf"), 10, 0.007)),
        ("step_size", ("L2", 0.1, 10, float("inf"))),
        ("steps", ("Linf", 0.1, 0, 0.007)),
        ("step_size", ("Linf", 0.1, 10, 0.0)),
        ("step_size", ("L2", 0.1, 10, -1.0)),
    ],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: tuple) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        PGD(*arguments)
