import pytest
import torch

from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.norms import NORMS
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.purification.uniform import UniformPurifier
from tests.attacks.test_pgd import linear
from tests.attacks.test_search import ByBrightness
from tests.toys import images

SAMPLE = torch.arange(3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_closed_form_optimum_on_a_linear_classifier(norm: str) -> None:
    gradient, difference = linear((1, 8, 8))
    x = 0.4 + 0.2 * images(3)
    label = gradient.scores(x, SAMPLE, 1).argmax(
        dim=1
    )  # right at first: what is wrong already is left alone at a check
    eps = {"Linf": 0.002, "L2": 0.01}[norm]
    found = MomentumPGD(norm, eps, 20, checks=1)(gradient, x, label, SAMPLE)  # pyright: ignore
    away = torch.stack([difference if of == 0 else -difference for of in label])
    torch.testing.assert_close(found, x + eps * NORMS[norm].direction(away), rtol=0, atol=1e-5)


class Noisy(ByBrightness):
    """Upwards everywhere in the mean, but a single iteration's gradient points down as often as not."""

    def __call__(
        self, x: torch.Tensor, label: torch.Tensor, sample: torch.Tensor, iteration: int, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        generator = torch.Generator().manual_seed(iteration)
        value = 0.1 + torch.randn(x.shape, generator=generator)
        return Gradient(value, x.new_zeros(len(x)), x.new_ones(len(x)))

    def evaluate(self, x, label, sample, count):
        found = super().evaluate(x, label, sample, count)
        return type(found)(torch.ones(len(x)), x.flatten(1).mean(1))


def test_iterations_share_their_draws() -> None:
    """Averaged over iterations, a gradient that is mostly noise still finds the way; plain signs lose theirs."""
    x = torch.full((3, 1, 16, 16), 0.5)
    reached = [
        (MomentumPGD("Linf", 0.1, 100, momentum=m, checks=1)(Noisy(), x, SAMPLE, SAMPLE) - x).mean().item()  # pyright: ignore
        for m in (0.95, 0.0)
    ]
    assert reached[0] > reached[1] + 0.005


def test_what_is_surely_broken_is_left_alone_and_batches_agree_bit_for_bit(denoiser, classifier) -> None:
    purifier = UniformPurifier(Recomputed(denoiser), 0.1, 20)
    gradient = ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=8), 2, 0)
    attack = MomentumPGD("Linf", 0.1, 6, checks=3, evaluations=3)
    x, sample = images(5), torch.arange(5) * 7
    label = gradient.scores(x, sample, 3).argmax(dim=1)
    label[0] = (label[0] + 1) % 10
    seen: list[torch.Tensor] = []
    whole = attack(gradient, x, label, sample, lambda i, g: seen.append(g.loss))
    assert len(seen) == attack.steps
    assert torch.equal(seen[2][0], seen[5][0]), "the first image was broken at the first check"
    assert gradient.evaluate(whole, label, sample, 3).correct.mean() < 0.8
    assert (whole - x).abs().max() <= 0.1 + 1e-6
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        assert torch.equal(attack(gradient, x[part], label[part], sample[part]), whole[part])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("norm", {"norm": "L1"}),
        ("steps", {"steps": 0}),
        ("step_size", {"step_size": 0.0}),
        ("momentum", {"momentum": 1.0}),
        ("checks", {"checks": 0}),
        ("checks", {"steps": 3, "checks": 4}),
        ("loss", {"loss": "mse"}),
        ("evaluations", {"evaluations": 0}),
    ],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        MomentumPGD(**arguments)
