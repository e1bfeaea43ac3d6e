import itertools
import math

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.noise import Draws
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import LinearDenoiser, QueueDraws, ToyDenoiser, abar, images, rows


def by_hand(x: torch.Tensor, grid: list[int], eta: float, denoiser: ToyDenoiser, draws: QueueDraws) -> torch.Tensor:
    """DiffPure in its discrete form: diffuse once, DDIM down the grid (Song et al. 2021, eqs. 12 and 16)."""
    x = 2 * x - 1
    x = math.sqrt(abar(grid[0])) * x + math.sqrt(1 - abar(grid[0])) * draws.noise("diffuse", 0)
    for number, (t, s) in enumerate(itertools.pairwise(grid)):
        eps = denoiser(x, t)
        sigma = eta * math.sqrt((1 - abar(s)) / (1 - abar(t))) * math.sqrt(1 - abar(t) / abar(s))
        x0 = (x - math.sqrt(1 - abar(t)) * eps) / math.sqrt(abar(t))
        x = math.sqrt(abar(s)) * x0 + math.sqrt(1 - abar(s) - sigma**2) * eps + sigma * draws.noise("step", number)
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("end", ["t0", "clean"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_purification_is_diffpure(eta: float, end: str) -> None:
    grid = [100, 80, 60, 40, 20, 0] + ([-1] if end == "clean" else [])
    denoiser = ToyDenoiser()
    purifier = UniformPurifier(denoiser, t=0.1, grid_size=50, eta=eta, end=end)  # pyright: ignore
    x = images(3, dtype=torch.float64)
    found = purifier(x, QueueDraws(tuple(x.shape)))  # pyright: ignore
    assert denoiser.asked == grid[:-1]
    expected = by_hand(x, grid, eta, ToyDenoiser(), QueueDraws(tuple(x.shape)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert ((found > 0) & (found < 1)).double().mean() > 0.2


@pytest.mark.parametrize(
    ("t", "grid_size", "end", "calls"), [(0.2, 500, "t0", 100), (0.2, 10, "t0", 2), (0.1, 1000, "clean", 101)]
)
def test_network_calls(t: float, grid_size: int, end: str, calls: int) -> None:
    denoiser = ToyDenoiser()
    purifier = UniformPurifier(denoiser, t, grid_size, end=end)  # pyright: ignore
    purifier(images(1), rows(1))
    assert len(denoiser.asked) == purifier.network_calls == calls


def test_rows_are_purified_each_with_its_own_draws() -> None:
    purifier = UniformPurifier(ToyDenoiser(), 0.2, 50, eta=1.0)
    x = images(1).expand(4, -1, -1, -1)
    draws = Draws(0, "defense", torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 0, 0]))
    out = purifier(x, draws)
    assert torch.equal(out[0], out[3])
    assert not torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


def test_an_image_that_is_all_signal_comes_back() -> None:
    """eps = 0 predicted: DDIM only rescales, so the mean of the result is the image, within Monte Carlo error."""
    purifier = UniformPurifier(LinearDenoiser(0.0), 0.05, 1000, end="clean")
    x = torch.full((1, 1, 64, 64), 0.6)
    sigma = math.sqrt((1 - abar(50)) / abar(50)) / 2
    assert sigma < 0.1
    assert abs(purifier(x, rows(1)).mean() - 0.6) < 4 * sigma / 64


def test_output_is_in_0_1_of_the_inputs_kind_and_views_show_the_noise() -> None:
    purifier = UniformPurifier(ToyDenoiser(3), 0.2, 50)
    x = images(2, 3)
    views = purifier.views(x, rows(2))
    assert list(views) == ["uniform noise", "purified"]
    assert torch.equal(views["purified"], purifier(x, rows(2)))
    signed = math.sqrt(abar(200)) * (2 * x - 1) + math.sqrt(1 - abar(200)) * rows(2).normal_like(x, "diffuse", 200)
    torch.testing.assert_close(views["uniform noise"], ((signed + 1) / 2).clamp(0, 1))
    out = purifier(x, rows(2))
    assert out.dtype == x.dtype and out.min() >= 0 and out.max() <= 1


def test_an_unseen_draw_of_the_step_is_not_spent_where_eta_is_0() -> None:
    draws = QueueDraws((1, 1, 8, 8))
    UniformPurifier(ToyDenoiser(), 0.2, 50)(images(1), draws)  # pyright: ignore
    assert draws.count == {"diffuse": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        {"t": 0.0},
        {"t": 1.0},
        {"t": -0.2},
        {"grid_size": 7},
        {"grid_size": 0},
        {"end": "early"},
        {"grid_size": 10, "t": 0.05},
    ],
)
def test_impossible_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        UniformPurifier(ToyDenoiser(), **arguments)
    key, *others = arguments
    assert caught.value.key == key and list(caught.value.related) == others


def test_eta_outside_0_1_is_refused() -> None:
    for eta in (-0.5, 1.5):
        with pytest.raises(ConfigError, match=r"^eta is"):
            UniformPurifier(ToyDenoiser(), eta=eta)


def test_no_purifier_is_the_identity() -> None:
    purifier = NoPurifier()
    x = images(2)
    assert purifier(x, rows(2)) is x
    assert not purifier.stochastic and purifier.network_calls == 0
    assert list(purifier.views(x, rows(2))) == ["purified"]
