import itertools
import math

import pytest
import torch
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.purification.diffpure import DiffPureODE, DiffPureSDE
from tests.toys import LinearDenoiser, QueueDraws, ToyDenoiser, abar, images, rows

SHAPE = (2, 1, 8, 8)


def beta(t: float) -> float:
    return 0.1 + 19.9 * t


def score(denoiser: ToyDenoiser, x: Tensor, t: float) -> Tensor:
    """Song et al. 2021, eq. 29's variance: 1 - exp(-integral of beta)."""
    return -denoiser(x, round(1000 * t) - 1) / math.sqrt(1 - math.exp(-(0.1 * t + 9.95 * t * t)))


def start(x: Tensor, draws: QueueDraws) -> Tensor:
    return math.sqrt(abar(99)) * (2 * x - 1) + math.sqrt(1 - abar(99)) * draws.noise("diffuse", 0)


GRID = [0.1, 0.08, 0.06, 0.04, 0.02, 1e-5]


def test_the_sde_is_nie_et_al_by_euler_maruyama() -> None:
    """Eq. 4's reverse SDE written out, to 1e-10."""
    x, draws, denoiser = images(2, dtype=torch.float64), QueueDraws(SHAPE), ToyDenoiser()
    y = start(x, draws)
    for n, (t, s) in enumerate(itertools.pairwise(GRID)):
        f = -0.5 * beta(t) * (y + 2 * score(denoiser, y, t))
        y = y + f * (s - t) + math.sqrt(beta(t)) * math.sqrt(t - s) * draws.noise("step", n)
    found = DiffPureSDE(denoiser, 0.1, 50)(x, QueueDraws(SHAPE))  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_ode_is_the_probability_flow(solver: str) -> None:
    """dx = -beta / 2 (x + s) dt on the same grid, to 1e-10."""
    x, draws, denoiser = images(2, dtype=torch.float64), QueueDraws(SHAPE), ToyDenoiser()

    def f(y: Tensor, t: float) -> Tensor:
        return -0.5 * beta(t) * (y + score(denoiser, y, t))

    y = start(x, draws)
    for t, s in itertools.pairwise(GRID):
        guess = y + (s - t) * f(y, t)
        y = guess if solver == "euler" or s == GRID[-1] else y + (s - t) * (f(y, t) + f(guess, s)) / 2
    found = DiffPureODE(denoiser, 0.1, 50, solver)(x, QueueDraws(SHAPE))  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-10, atol=1e-10)


def test_defaults_take_every_timestep_and_the_continuous_schedule_meets_the_discrete_one() -> None:
    denoiser = ToyDenoiser()
    purifier = DiffPureSDE(denoiser)
    purifier(images(1), rows(1))
    assert denoiser.asked == list(range(99, -1, -1))
    ode = DiffPureODE(denoiser)
    assert (ode.times, ode.solver, ode.network_calls) == (purifier.times, "euler", 100)
    assert DiffPureSDE(denoiser, 0.1, 10).network_calls == 1
    with pytest.raises(ConfigError, match=r"^grid_size is 4; accepted: 10 or more, so that \[0, t\] holds") as caught:
        DiffPureSDE(denoiser, 0.1, 4)
    assert caught.value.related == ("t",)
    purifier = DiffPureSDE(denoiser, 0.29, 100)
    assert purifier.network_calls == 29  # 0.29 * 100 is a bit less
    assert [purifier.timestep(time) for time in (0.0996, 0.1004, 1e-5)] == [99, 99, 0]
    for t in (0.05, 0.1, 0.3):
        assert abs(math.exp(-(0.1 * t + 9.95 * t * t)) / abar(round(1000 * t) - 1) - 1) < 5e-3


def test_without_noise_to_predict_the_ode_has_a_closed_form() -> None:
    """eps = 0: dx = -beta x / 2 dt, whose solution divides by sqrt(abar). Euler (100 steps) to 1e-3, Heun to 1e-5."""
    x = 0.5 + 0.1 * (images(1, dtype=torch.float64) - 0.5)
    noisy = DiffPureODE(LinearDenoiser(0.0), 0.1).views(x, rows(1))["uniform noise"].double()
    inside = (noisy > 0) & (noisy < 1)
    expected = ((2 * noisy - 1) / math.sqrt(math.exp(-(0.01 + 0.0995))) + 1) / 2
    for solver, tolerance in (("euler", 1e-3), ("heun", 1e-5)):
        found = DiffPureODE(LinearDenoiser(0.0), 0.1, solver=solver)(x, rows(1))  # pyright: ignore
        inner = inside & (expected > 0) & (expected < 1)
        assert inner.any() and (found - expected)[inner].abs().max() < tolerance
