import math

import pytest
import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser, Recomputed
from hetpure.purification.likelihood import LikelihoodPurifier
from tests.toys import ToyDenoiser, abar, images, rows, tiny_denoiser

LEVELS = [122, 133, 144, 154, 165]
"""Five levels between 117 and 170: the middles of five equal parts."""


def loss(x: Tensor, noise: Tensor, t: int) -> Tensor:
    """The mean square of x(0|t) - x of one image on [-1, 1], in the variance-exploding form of the released code."""
    sigma = math.sqrt((1.0 - abar(t)) / abar(t))
    noised = x + sigma * noise
    denoised = noised - sigma * ToyDenoiser(3)(math.sqrt(abar(t)) * noised, t)
    return (denoised - x).square().mean()


def noises(count: int) -> list[Tensor]:
    return [rows(count).normal("likelihood", k, (3, 8, 8), torch.float64) for k in range(len(LEVELS))]


def test_adam_is_torchs() -> None:
    """Preset ``released``, each image by itself, float64: to 1e-9."""
    x = images(2, 3, dtype=torch.float64)
    found = LikelihoodPurifier(ToyDenoiser(3), **LikelihoodPurifier.PRESETS["released"])(x, rows(2))
    for i in range(2):
        image = (2.0 * x[i : i + 1] - 1.0).requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.1)
        for t, noise in zip(LEVELS, noises(2), strict=True):
            optimizer.zero_grad()
            loss(image, noise[i : i + 1], t).backward()
            optimizer.step()
        expected = ((image.detach() + 1.0) / 2.0).clamp(0.0, 1.0)
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-9, rtol=0.0)


@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_sign_steps_stay_in_the_ball(momentum: float) -> None:
    """The released loop with its Linf ball, float64, to 1e-12; a larger step reaches the ball's border."""
    x = images(2, 3, dtype=torch.float64)
    found = LikelihoodPurifier(ToyDenoiser(3), step_size=0.02, momentum=momentum)(x, rows(2))
    image = 2.0 * x - 1.0
    at, m = image.clone(), torch.zeros_like(x)
    for t, noise in zip(LEVELS, noises(2), strict=True):
        at.requires_grad_()
        slopes = [torch.autograd.grad(loss(at[i : i + 1], noise[i : i + 1], t), at)[0][i] for i in range(2)]
        m = momentum * m - torch.stack([slope / slope.abs().sum() for slope in slopes])
        at = torch.minimum(torch.maximum(at.detach() + 0.04 * m.sign(), image - 16 / 255), image + 16 / 255)
    torch.testing.assert_close(found, ((at + 1.0) / 2.0).clamp(0.0, 1.0), atol=1e-12, rtol=0.0)
    assert float((found - x).abs().max()) == pytest.approx(8 / 255, abs=1e-12)


def test_the_gradient_of_sign_steps_is_the_identity() -> None:
    x = (0.2 + 0.6 * images(2, 3, dtype=torch.float64)).requires_grad_()
    weight = images(2, 3, dtype=torch.float64, seed=5)
    (gradient,) = torch.autograd.grad((LikelihoodPurifier(ToyDenoiser(3))(x, rows(2)) * weight).sum(), x)
    torch.testing.assert_close(gradient, weight)


def test_second_derivatives_of_a_network_with_attention_are_exact() -> None:
    """Of a small UNet, float64, by a central difference to 1e-5; the same bits with the recomputing denoiser."""
    x = (0.2 + 0.6 * images(1, dtype=torch.float64)).requires_grad_()
    weight, direction = (images(1, dtype=torch.float64, seed=seed) - 0.5 for seed in (5, 6))
    network = tiny_denoiser(dtype=torch.float64)
    settings = {**LikelihoodPurifier.PRESETS["released"], "ascent_steps": 2}

    def value(at: Tensor, denoiser: Denoiser = network) -> Tensor:
        return (LikelihoodPurifier(denoiser, **settings)(at, rows(1)) * weight).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    assert torch.equal(gradient, torch.autograd.grad(value(x, Recomputed(network)), x)[0])
    with torch.no_grad():
        expected = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), expected, atol=1e-5 * float(gradient.norm()), rtol=0.0)
    assert not torch.allclose(gradient, weight, rtol=0.01)
