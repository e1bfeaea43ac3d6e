import pytest
import torch
from torch import Tensor

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import Guarded, first_not_finite
from hetpure.noise import defense_draws
from hetpure.purification.uniform import UniformPurifier
from tests.toys import LinearDenoiser, ToyDenoiser, images, tiny_classifier


def defense(denoiser) -> PurifiedClassifier:
    return PurifiedClassifier(tiny_classifier(), UniformPurifier(denoiser, 0.2, 10), 10, 2, chunk_size=4)


class Spoiled(LinearDenoiser):
    """Infinite for one bright image, at one timestep."""

    def __init__(self, value: float = float("inf")) -> None:
        super().__init__(0.5)
        self.value = value

    def forward(self, x: Tensor, t: int) -> Tensor:
        noise = super().forward(x, t)
        if t == 100:
            noise = torch.where((x.flatten(1).mean(1) > 0.5).view(-1, 1, 1, 1), self.value, noise)
        return noise


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_the_first_tensor_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    x = torch.cat([torch.full((1, 1, 8, 8), 1.0), torch.zeros(1, 1, 8, 8)])
    model = defense(Guarded(Spoiled(value)))
    draws = defense_draws(0, torch.tensor([3, 4]), 2)
    logits = model.purified_logits(x, draws)
    assert logits[:2].isnan().all() and logits[2:].isfinite().all(), "no other sample is touched"
    kind = "NaN" if value != value else "infinite"
    assert first_not_finite(model, x[:1], draws.rows(slice(0, 2))) == f"predicted noise at timestep 100, {kind}"
    assert first_not_finite(model, x[1:], draws.rows(slice(2, 4))) is None
    assert first_not_finite(model, x[:1] / 0.0, draws.rows(slice(0, 2))) == "the image, infinite"
    assert not model.purifier.denoiser.denoiser._forward_hooks, "nothing stays behind"


def test_the_guard_changes_nothing_that_is_finite() -> None:
    x, draws = images(4).requires_grad_(), defense_draws(0, torch.arange(4), 2)
    found = []
    for denoiser in (ToyDenoiser(), Guarded(ToyDenoiser())):
        logits = defense(denoiser).purified_logits(x, draws)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
