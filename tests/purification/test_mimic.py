"""MimicDiffusion against its loop with the distances differentiated by autograd."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from hetpure.purification.mimic import MimicPurifier
from tests.toys import ToyDenoiser, abar, images, rows


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("t", [1.0, 0.6])
def test_mimic_is_ddpm_with_two_guidances(upsampling: str, t: float) -> None:
    """With the paper's signs (softness 0), ten and six steps, to 1e-9."""
    x, draws, denoiser = images(2, 3, dtype=torch.float64), rows(2), ToyDenoiser(3)
    image, n = 2 * x - 1, round(1000 * t)
    noise = draws.normal_like(image, "diffuse", n - 1)
    y = noise if t == 1.0 else math.sqrt(abar(n - 1)) * image + math.sqrt(1 - abar(n - 1)) * noise
    for i in range(n - 1, -1, -100):
        j = max(i - 100, -1)
        e = denoiser(y, i)
        at = y.clone().requires_grad_()
        x0 = (at - math.sqrt(1 - abar(i)) * e) / math.sqrt(abar(i))
        large, given = (
            interpolate(z, scale_factor=4, mode=upsampling, align_corners=None if upsampling == "nearest" else False)
            for z in (x0, image)
        )
        short = (x0 - image).abs().sum(1).mean(dim=(1, 2)).sum()
        long = (large - given).abs().sum(1).mean(dim=(1, 2)).sum()
        (g,) = torch.autograd.grad(30.0 * short + 25.0 * long, at)
        c1 = math.sqrt((1 - abar(i) / abar(j)) * (1 - abar(j)) / (1 - abar(i)))
        y = math.sqrt(abar(j)) * x0.detach() + math.sqrt(1 - abar(j) - c1**2) * e
        y = y + (c1 * draws.normal_like(y, "step", j) if j >= 0 else 0)
        y = y - (g * math.sqrt(abar(i)) if i + 1 < 800 else 0)
    more = {"upsampling": upsampling, "softness": 0.0, "low": 0.0}
    found = MimicPurifier(denoiser, t, 10, 1.0, 30.0, 25.0, **more)(x, draws)  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9)
    assert ((found > 0) & (found < 1)).double().mean() > 0.1, "clamping hid the comparison"


def test_signs_hide_the_image_from_gradients() -> None:
    """From noise alone the input enters by signs only: no gradient at softness 0, though the result depends on it."""
    x = images(2, 3).requires_grad_()
    hard, soft = (MimicPurifier(ToyDenoiser(3), grid_size=10, softness=s) for s in (0.0, 0.05))
    assert torch.autograd.grad(hard(x, rows(2)).sum(), x)[0].abs().max() == 0.0
    assert torch.autograd.grad(soft(x, rows(2)).sum(), x)[0].abs().max() > 0.0
    assert not torch.allclose(hard(x, rows(2)), hard(1 - x, rows(2)), atol=0.01)


def test_the_defaults_are_the_released_settings() -> None:
    """100 DDPM steps from 999; those of the 22nd to the 90th are guided; 3000 for a mean over 16 images."""
    purifier = MimicPurifier(ToyDenoiser(3))
    (grid,) = purifier.grids
    assert grid == [*range(999, 0, -10), -1] and purifier.network_calls == 100 and purifier.eta == 1.0
    guided = [n for n, t in enumerate(grid[:-1]) if purifier.low < (t + 1) / 1000 < purifier.high]
    assert guided == list(range(21, 90)) and purifier.short_range == purifier.long_range == 3000 / 16


def test_nearest_enlargement_makes_the_guidances_one() -> None:
    off = images(2, 3, dtype=torch.float64) - 0.5
    short, long = (MimicPurifier(ToyDenoiser(3), short_range=s, long_range=9.0 - s).guidance(off) for s in (9.0, 0.0))
    torch.testing.assert_close(short, long)
