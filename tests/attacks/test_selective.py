import math

import pytest
import torch
from torch import Tensor

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.norms import NORMS
from hetpure.attacks.registry import GRADIENTS, build_gradient, complete_gradient
from hetpure.attacks.selective import SelectivePGD, select_draws
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Recomputed
from hetpure.noise import Draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.attacks.test_pgd import linear
from tests.toys import ToyDenoiser, images

LABEL, SAMPLE = torch.tensor([3, 7]), torch.tensor([12, 40])


def of_norm(name: str, v: Tensor) -> Tensor:
    return v.sign() if name == "Linf" else v / v.norm()


def published(name: str, eps: float, k: int, loss: Tensor, g: Tensor) -> tuple[list[int], Tensor]:
    """The public code's step on one image, equation by equation: loss (N,), g (N, d); lambda is 5."""
    n = len(loss)
    broken = torch.zeros(n, dtype=g.dtype)
    for a in range(n):
        for b in range(n):
            reached = loss[b] + eps * (of_norm(name, g[a]) * g[b]).sum()
            broken[a] += reached if reached > 0 else reached.exp() - 1
    chosen = sorted(range(n), key=lambda a: -float(broken[a]))[:k]
    # Its loop over EM steps never uses what it computes: all steps are the first.
    w = [1 / (1 + (-5.0 * (loss[i] + (of_norm(name, g[chosen[0]]) * g[i]).sum())).exp()) for i in range(n)]
    grafts = []
    for a in chosen:
        likeness = [[(g[i] * g[c]).sum() / (g[i].norm() * g[c].norm()) for c in chosen] for i in range(n)]
        share = [
            k * (g[i] * g[a]).sum().div(g[i].norm() * g[a].norm()).exp() / sum(v.exp() for v in likeness[i])
            for i in range(n)
        ]
        weight = [share[i] * w[i] for i in range(n)]
        grafts.append(sum(weight[i] * g[i] for i in range(n)) / sum(weight))
    return chosen, torch.stack(grafts)  # pyright: ignore


@pytest.mark.parametrize("grafts", [1, 3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_update_is_that_of_the_public_codes_equations(classifier64, norm: str, grafts: int) -> None:
    """Five iterations in float64 with the same draws: each gradient within 1e-10 of its largest value, pixels 1e-12."""
    eps, n, steps = {"Linf": 0.05, "L2": 0.5}[norm], 5, 5
    purifier = UniformPurifier(ToyDenoiser(), 0.8, 5, eta=1.0)
    gradient = ExactGradient(PurifiedClassifier(classifier64, purifier, 10, chunk_size=4), n, seed=3)
    x = images(2, dtype=torch.float64)
    label = gradient.scores(x, SAMPLE, 9).argmax(dim=1)

    expected, gradients = [], torch.zeros(steps, *x.shape, dtype=x.dtype)
    for row in range(2):
        x_adv, mean = x[row], torch.zeros_like(x[row])
        for i in range(steps):
            losses, at_purified = [], []
            draws = [Draws(3, "attack", SAMPLE[row : row + 1], torch.tensor([i * n + j])) for j in range(n)]
            for draw in draws:
                purified = purifier(x_adv[None], draw).detach().requires_grad_()
                losses.append(LOSSES["margin"](classifier64(purified), label[row : row + 1]))
                at_purified.append(torch.autograd.grad(losses[-1].sum(), purified)[0].flatten())
            chosen, of_chosen = published(norm, eps, grafts, torch.cat(losses).detach(), torch.stack(at_purified))
            value = torch.zeros_like(mean)
            for j, graft in zip(chosen, of_chosen, strict=True):
                leaf = x_adv[None].clone().requires_grad_()
                inner = (purifier(leaf, draws[j]).flatten() * graft).sum()
                value += torch.autograd.grad(inner, leaf)[0][0] / grafts
            gradients[i, row] = value
            v = (i + 1) ** -0.5
            mean = v * value + (1 - v) * mean
            moved = x_adv + 0.25 * eps * (1 + math.cos(math.pi * i / steps)) / 2 * of_norm(norm, mean)
            x_adv = NORMS[norm].project(moved[None], x[row : row + 1], eps)[0]
        expected.append(x_adv)

    seen: list[Tensor] = []
    attack = SelectivePGD(norm, eps, steps, grafts=grafts, checks=1)  # pyright: ignore
    found = attack(gradient, x, label, SAMPLE, lambda i, g: seen.append(g.value))
    largest = gradients.abs().max()
    torch.testing.assert_close(torch.stack(seen), gradients, rtol=0, atol=1e-10 * float(largest))
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    other = SelectivePGD(norm, eps, 1, grafts=grafts, checks=1, em_steps=3)  # pyright: ignore
    other(gradient, x, label, SAMPLE, lambda i, g: seen.append(g.value))
    assert (seen[-1] - gradients[0]).abs().max() > 1e-6 * largest, "the E-step changes nothing: little was tested"


@pytest.mark.parametrize("em_steps", [1, 2])
def test_what_pulls_elsewhere_has_no_weight(em_steps: int) -> None:
    """Of three draws that pull along (1, 0) and two along (-1, 1), the mean goes both ways, the selection the first."""
    g = torch.tensor([[1.0, 0.0]] * 3 + [[-0.5, 0.5]] * 2, dtype=torch.float64).view(5, 1, 1, 2)
    loss = torch.full((5,), -0.2, dtype=torch.float64)
    chosen, (graft,) = select_draws(NORMS["Linf"], 0.1, 1, 5.0, 1.0, em_steps, loss, g)
    assert chosen.tolist() == [0]
    gains = (1.0, -0.5) if em_steps == 1 else (1.0, 0.0)  # along the signs of (1, 0), then of the first step's (a, b)
    a, b = (1 / (1 + math.exp(-5.0 * (-0.2 + gain))) for gain in gains)
    expected = torch.tensor([3 * a - b, b], dtype=torch.float64) / (3 * a + 2 * b)
    torch.testing.assert_close(graft.flatten(), expected)
    if em_steps == 1:
        assert graft[..., 1] < 0.02 * graft[..., 0] and g.mean(0).flatten().tolist() == pytest.approx([0.4, 0.2])


def test_surely_right_draws_are_still_weighted() -> None:
    """Each weight is below the smallest float, their ratio is e^10."""
    g, loss = torch.tensor([1e-20, -1e-20]).view(2, 1, 1, 1), torch.tensor([-400.0, -402.0])
    _, (graft,) = select_draws(NORMS["L2"], 0.1, 1, 5.0, 1.0, 1, loss, g)
    assert graft.item() / 1e-20 == pytest.approx(math.tanh(5.0))
    chosen, grafts = select_draws(NORMS["L2"], 0.1, 9, 5.0, 1.0, 3, loss, torch.zeros_like(g))
    assert sorted(chosen.tolist()) == [0, 1] and torch.equal(grafts, torch.zeros_like(g))


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name not in ("surrogate", "deviation")])
def test_grafts_of_every_draw_on_itself_are_the_modes_gradient(name: str, denoiser64, classifier64) -> None:
    """The chain rule, in float64: relative error below 1e-10, also where chunks are padded."""
    settings = {"grid_size": 20, "tau": 0.7, "blocks": ["block1", "block2"], "t_small": 0.05, "eta": 1.0}
    purifier = HeterogeneousPurifier(Recomputed(denoiser64), classifier64, **settings)
    process = PurifiedClassifier(classifier64, purifier, 10, 2, "mean_logits", chunk_size=4)
    source, x = build_gradient(complete_gradient(name, {}), process, 3, 0), images(2, dtype=torch.float64)

    def every(loss: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(len(loss)), gradient

    found, expected = source.graft(x, LABEL, SAMPLE, 1, every), source(x, LABEL, SAMPLE, 1)
    assert (found.value - expected.value).norm() < 1e-10 * expected.value.norm()
    torch.testing.assert_close((found.loss, found.correct), (expected.loss, expected.correct))


def test_a_mode_that_does_not_say_how_grafts_go_back_is_refused(denoiser, classifier) -> None:
    class Own(ExactGradient):
        def see(self, x, draws, prepared) -> Tensor:
            return 2.0 * super().see(x, draws, prepared)

    source = Own(PurifiedClassifier(classifier, UniformPurifier(denoiser, 0.1, 20), 10), 2, 0)
    with pytest.raises(ConfigError, match=r"^attack\.gradient is 'Own', which does not define to_image"):
        SelectivePGD(steps=4)(source, images(2), LABEL, SAMPLE)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_closed_form_optimum_on_a_linear_classifier(norm: str) -> None:
    gradient, difference = linear((1, 8, 8))
    x, sample = 0.4 + 0.2 * images(3), torch.arange(3)
    label = gradient.scores(x, sample, 1).argmax(dim=1)
    eps = {"Linf": 0.002, "L2": 0.01}[norm]
    found = SelectivePGD(norm, eps, 20, checks=1)(gradient, x, label, sample)  # pyright: ignore
    away = torch.stack([difference if of == 0 else -difference for of in label])
    torch.testing.assert_close(found, x + eps * NORMS[norm].direction(away), rtol=0, atol=1e-5)


def test_what_is_surely_broken_is_left_alone_and_batches_agree_bit_for_bit(denoiser, classifier) -> None:
    purifier = UniformPurifier(Recomputed(denoiser), 0.1, 20, eta=1.0)
    gradient = ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=8), 3, 0)
    attack = SelectivePGD("Linf", 0.1, 6, checks=3, evaluations=3, grafts=2)
    x, sample = images(5), torch.arange(5) * 7
    label = gradient.scores(x, sample, 3).argmax(dim=1)
    label[0] = (label[0] + 1) % 10
    seen: list[Gradient] = []
    outcome = AdversarialAttack(attack, gradient, lambda i, g: seen.append(g)).attacked(x, label, sample)
    whole = outcome.images
    assert len(seen) == attack.steps
    assert len(outcome.traces[0].loss) == 2, "the first image was broken at the first check"
    assert len(outcome.traces[1].loss) == 6
    assert outcome.traces[1].loss == [g.loss[1].item() for g in seen]
    assert 0.05 < (whole - x).abs().max() <= 0.1 + 1e-6 and whole.min() >= 0.0 and whole.max() <= 1.0
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        assert torch.equal(attack(gradient, x[part], label[part], sample[part]), whole[part])
    assert (gradient.purifications, attack.purifications(gradient)) == (3, 5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("step_size", {"step_size": 0.0}),
        ("checks", {"steps": 3, "checks": 4}),
        ("loss", {"loss": "mse"}),
        ("grafts", {"grafts": 0}),
        ("sharpness", {"sharpness": -1.0}),
        ("reach", {"reach": -0.1}),
        ("em_steps", {"em_steps": 0}),
        ("alpha", {"alpha": -0.5}),
    ],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        SelectivePGD(**arguments)
