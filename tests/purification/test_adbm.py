"""The bridge model's sampler: its equation, and the same without a clamp as DDIM rounds."""

import math

import torch

from hetpure.purification.adbm import BridgePurifier
from hetpure.purification.gns import GradualNoisePurifier
from tests.toys import LinearDenoiser, ToyDenoiser, abar, images, rows


def test_it_is_its_equation() -> None:
    """To 1e-10: noise at timestep 99, then 79, 59, 39, 19 and x(0), each x(0|t) clamped."""
    x, denoiser = images(3, 3, dtype=torch.float64), ToyDenoiser(3)
    found = BridgePurifier(denoiser)(x, rows(3))
    y = math.sqrt(abar(99)) * (2 * x - 1) + math.sqrt(1 - abar(99)) * rows(3).normal_like(x, "diffuse", 99)
    clamped = False
    for t, s in ((99, 79), (79, 59), (59, 39), (39, 19), (19, -1)):
        eps = ToyDenoiser(3)(y, t)
        clean = (y - math.sqrt(1 - abar(t)) * eps) / math.sqrt(abar(t))
        clamped |= bool((clean.abs() > 1).any())
        y = math.sqrt(abar(s)) * clean.clamp(-1, 1) + math.sqrt(1 - abar(s)) * eps
    assert denoiser.asked == [99, 79, 59, 39, 19] and clamped
    torch.testing.assert_close(found, (y + 1) / 2, rtol=1e-10, atol=1e-10)


def test_without_a_clamp_it_is_one_round_of_ddim() -> None:
    """Gray images whose predictions stay within [-1, 1]: as gns in one round with eta 0, to 1e-12."""
    x, denoiser = 0.45 + 0.1 * images(2, 3, dtype=torch.float64), LinearDenoiser(1.0, 3)
    expected = GradualNoisePurifier(denoiser, t=[0.06], network_calls=[4], eta=0.0)(x, rows(2))
    found = BridgePurifier(denoiser, t=0.06, network_calls=4)(x, rows(2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
