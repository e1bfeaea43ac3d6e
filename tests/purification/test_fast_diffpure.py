import math

import pytest
import torch
from torch import Tensor

from hetpure.purification.fast_diffpure import FastPurifier
from tests.toys import ToyDenoiser, abar, alpha, images, rows


@pytest.mark.parametrize("t,scale", [(100, 20.0), (48, 6500.0)])
def test_two_predictions_and_a_guided_step(t: int, scale: float) -> None:
    """The released steps with DDPM's posterior as it is printed, float64: to 1e-10."""
    x, draws = images(2, 3, dtype=torch.float64), rows(2)
    noise = {name: draws.normal(name, t, (3, 8, 8), torch.float64) for name in ("diffuse", "guide", "step")}
    a, b, beta = abar(t), abar(t - 1), 1.0 - alpha(t)

    def diffused(y: Tensor, name: str) -> Tensor:
        return math.sqrt(a) * y + math.sqrt(1.0 - a) * noise[name]

    def predicted(y: Tensor) -> Tensor:
        return ((y - math.sqrt(1.0 - a) * ToyDenoiser(3)(y, t)) / math.sqrt(a)).clamp(-1.0, 1.0)

    image = 2.0 * x - 1.0
    guide, x_t = predicted(diffused(image, "diffuse")), diffused(image, "guide")
    mean = (math.sqrt(b) * beta * predicted(x_t) + math.sqrt(alpha(t)) * (1.0 - b) * x_t) / (1.0 - a)
    variance = beta * (1.0 - b) / (1.0 - a)
    gradient = 2.0 * (x_t - diffused(guide, "guide"))
    z = mean - scale * math.sqrt(1.0 - a) / math.sqrt(a) * variance * gradient + math.sqrt(variance) * noise["step"]
    expected = (predicted(z) + 1.0) / 2.0
    torch.testing.assert_close(FastPurifier(ToyDenoiser(3), t / 1000, scale)(x, draws), expected, atol=1e-10, rtol=0.0)
