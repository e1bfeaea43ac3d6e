import math

import pytest
import torch

from hetpure.purification.adp import ScorePurifier
from tests.toys import LinearDenoiser, ToyDenoiser, abar, images, rows


@pytest.mark.parametrize("stop", [0.0, 0.0046])
def test_adp_is_the_released_loop(stop: float) -> None:
    """Noise, probe, adaptive step, stopping for each image, as published: to 1e-8 (z is nearly 1)."""
    x, denoiser = images(4, 3, dtype=torch.float64), ToyDenoiser(3)
    sigma_t = math.sqrt((1 - abar(145)) / abar(145))

    def score(y: torch.Tensor) -> torch.Tensor:
        return -2 * denoiser(math.sqrt(abar(145)) * (2 * y - 1), 145) / sigma_t

    y = (x + 0.1 * rows(4).normal_like(x, "diffuse", 0)).clamp(0, 1)
    going, seen = torch.ones(4, dtype=torch.bool), []
    for _ in range(4):
        g = score(y)
        ahead = score(y + 1e-3 * g)
        z = (g * ahead).flatten(1).sum(1) / (g * g).flatten(1).sum(1)
        size = (0.05 * 1e-3 / (1 - z)).clamp(1e-5, 0.1)
        going = going & (size > stop)
        seen.append(going)
        y = (y + g * (size * going)[:, None, None, None]).clamp(0, 1)
    found = ScorePurifier(denoiser, sigma=0.1, score_steps=4, stop=stop, t=0.1446)(x, rows(4))
    torch.testing.assert_close(found, y, rtol=1e-8, atol=1e-8)
    assert bool(torch.stack(seen).any())


def test_a_gaussians_score_takes_the_newton_share() -> None:
    """eps = k x bends by the same everywhere: each step goes the share lambda of the way to the mode, to 1e-6."""
    x = 0.3 + 0.4 * images(1, 3, dtype=torch.float64)
    found = ScorePurifier(LinearDenoiser(0.5, 3), sigma=0.0, score_steps=3, stop=0.0)(x, rows(1))
    torch.testing.assert_close(found - 0.5, (x - 0.5) * 0.95**3, rtol=1e-6, atol=1e-6)
