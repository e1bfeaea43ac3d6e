"""Gradual noise scheduling: rounds of DDPM."""

import math

import pytest
import torch

from hetpure.purification.gns import GradualNoisePurifier
from hetpure.purification.registry import complete_settings
from tests.toys import QueueDraws, RecordingDraws, ToyDenoiser, abar, images, rows

SHAPE = (2, 1, 8, 8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_gns_is_ddpm_in_rounds(eta: float) -> None:
    """Lee & Kim's loop written out, to 1e-10: seq = stride - 1, 2 stride - 1, .., n - 1, then x(0)."""
    x, draws, denoiser = images(2, dtype=torch.float64), QueueDraws(SHAPE), ToyDenoiser()
    y, used = 2 * x - 1, 0
    for number, (n, count) in enumerate([(30, 3), (100, 5)]):
        seq = [i - 1 for i in range(n // count, n + 1, n // count)]
        y = math.sqrt(abar(n - 1)) * y + math.sqrt(1 - abar(n - 1)) * draws.noise("diffuse", number)
        for i, j in zip(reversed(seq), reversed([-1, *seq[:-1]]), strict=True):
            e = denoiser(y, i)
            x0 = (y - math.sqrt(1 - abar(i)) * e) / math.sqrt(abar(i))
            c1 = eta * math.sqrt((1 - abar(i) / abar(j)) * (1 - abar(j)) / (1 - abar(i)))
            y = math.sqrt(abar(j)) * x0 + math.sqrt(1 - abar(j) - c1**2) * e
            if c1 > 0:
                y = y + c1 * draws.noise("step", used)
                used += 1
    found = GradualNoisePurifier(denoiser, [0.03, 0.1], [3, 5], eta)(x, QueueDraws(SHAPE))  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("preset", "last"), [("cifar10", 125), ("svhn", 80), ("imagenet", 200)])
def test_gns_presets_are_the_papers_rounds(preset: str, last: int) -> None:
    settings = complete_settings({"name": "gns", "preset": preset})
    purifier = GradualNoisePurifier(ToyDenoiser(), settings["t"], settings["network_calls"], settings["eta"])
    assert [grid[0] + 1 for grid in purifier.grids] == [30, 30, 30, 30, 50, 50, last, last]
    assert purifier.network_calls == 220 + 2 * last and purifier.eta == 1.0


def test_no_two_rounds_share_noise() -> None:
    draws = RecordingDraws(rows(1))
    GradualNoisePurifier(ToyDenoiser(), [0.03, 0.03], [3, 3])(images(1), draws)  # pyright: ignore
    assert len(draws.keys) == len(set(draws.keys)) == 2 + 2 * 2
