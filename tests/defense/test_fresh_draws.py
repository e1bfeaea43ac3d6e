"""The defense for code from elsewhere: new noise in every call, exact gradient, flat memory, no padding."""

import pytest
import torch
from torch import Tensor

import hetpure
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Recomputed, innermost
from hetpure.noise import Draws
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images


@pytest.fixture
def defense(denoiser, classifier) -> PurifiedClassifier:
    return PurifiedClassifier(classifier, UniformPurifier(denoiser, 0.1, 20), 10, ensemble_size=2)


def test_calls_draw_anew_and_can_be_repeated(defense) -> None:
    model, x = hetpure.FreshDraws(defense), images(3)
    assert torch.equal(defense(x), defense(x)), "the trap that this class is for"
    first, second = model(x), model(x)
    assert model.calls == 2 and not torch.equal(first, second)
    model.calls = 0
    assert torch.equal(model(x), first) and torch.equal(model(x), second)
    assert not torch.equal(hetpure.FreshDraws(defense, seed=1)(x), first)


def test_logits_are_those_of_single_purifications(defense) -> None:
    model, x = hetpure.FreshDraws(defense, draws=2, seed=5), images(2)
    model.calls = 3
    keys = Draws(5, "fresh", torch.tensor([0, 0, 1, 1]), torch.tensor([6, 7, 6, 7]))
    purified = defense.purifier.purify(x[[0, 0, 1, 1]], keys)
    expected = defense.classifier(purified).unflatten(0, (2, 2)).mean(dim=1)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)


def gradient_of(model: torch.nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


def test_the_gradient_is_the_same_with_and_without_recomputation(defense) -> None:
    whole, again = (hetpure.FreshDraws(defense, recompute=kept) for kept in (False, True))
    assert any(isinstance(module, Recomputed) for module in again.modules())
    assert not any(isinstance(module, Recomputed) for module in defense.modules()), "the defense stays as it is"
    assert torch.equal(gradient_of(again, images(2)), gradient_of(whole, images(2)))


def test_memory_does_not_grow_with_the_steps(denoiser, classifier) -> None:
    """Values that autograd keeps: for each step an image, without recomputation all of its activations."""

    def kept(grid_size: int, recompute: bool) -> int:
        purifier = UniformPurifier(denoiser, 0.2, grid_size)
        model, sizes = hetpure.FreshDraws(PurifiedClassifier(classifier, purifier, 10), recompute=recompute), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(images(1).requires_grad_())
        return sum(sizes)

    steps = 8  # of the denoiser: 0.2 of 50 and of 10 grid points
    assert kept(50, True) - kept(10, True) < steps * 20 * 64
    assert kept(50, False) - kept(10, False) > steps * 200 * 64


def test_only_as_many_rows_as_there_are(defense) -> None:
    rows: list[int] = []
    handle = innermost(defense)[0].register_forward_hook(lambda m, args, out: rows.append(len(args[0])))
    hetpure.FreshDraws(defense)(images(3))
    handle.remove()
    assert set(rows) == {3}


def test_it_stays_in_evaluation_mode_and_its_networks_get_no_gradients(defense) -> None:
    model = hetpure.FreshDraws(defense)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters()) and any(
        True for _ in model.parameters()
    )
    with pytest.raises(ConfigError, match="draws is 0"):
        hetpure.FreshDraws(defense, draws=0)
    assert hetpure.FreshDraws(PurifiedClassifier(defense.classifier, NoPurifier(), 10), draws=9).draws == 1


def test_a_foreign_eot_averages_several_draws(defense) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="the extra is not installed: hetpure[torchattacks]")
    model, x = hetpure.FreshDraws(defense), images(2)
    x_adv = torchattacks.EOTPGD(model, eps=0.05, alpha=0.02, steps=2, eot_iter=3)(x, torch.tensor([0, 1]))
    assert model.calls == 6 and 0.0 < (x_adv - x).abs().max() <= 0.05 + 1e-6
