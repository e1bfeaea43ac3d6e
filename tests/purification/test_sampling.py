"""Grids of timesteps, and the loop that purifiers share."""

from typing import Any

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.purification.sampling import RoundsPurifier, Sampler, SamplingPurifier, check_level, timestep_grid
from hetpure.purification.uniform import released_grid
from hetpure.schedule import CLEAN, Schedule
from tests.toys import RecordingDraws, ToyDenoiser, images, rows


@pytest.mark.parametrize(
    ("t", "grid_size", "expected"),
    [
        (0.2, 500, list(range(200, -1, -2))),  # the paper's defense process: 100 network calls
        (0.2, 10, [200, 100, 0]),  # and its attack process
        (0.4, 500, list(range(400, -1, -2))),
        (0.2, 1000, list(range(200, -1, -1))),
        (0.15, 10, [100, 0]),
        (0.29, 100, list(range(290, -1, -10))),
        (0.999, 1000, list(range(999, -1, -1))),
    ],
)
def test_the_released_grid_starts_at_t_and_ends_at_timestep_0(t: float, grid_size: int, expected: list[int]) -> None:
    assert timestep_grid(Schedule(), t, grid_size=grid_size, shift=0) == expected
    assert released_grid(Schedule(), t, grid_size, "t0") == expected
    assert released_grid(Schedule(), t, grid_size, "clean") == [*expected, CLEAN]


@pytest.mark.parametrize(
    ("t", "density", "expected"),
    [
        (0.1, {"grid_size": 1000}, [*range(99, -1, -1), CLEAN]),
        (0.23, {"grid_size": 20}, [199, 149, 99, 49, CLEAN]),
        (1.0, {"grid_size": 10}, [*range(999, 0, -100), CLEAN]),
        (1.0, {"grid_size": 1}, [999, CLEAN]),
        (0.001, {"network_calls": 1}, [0, CLEAN]),
        (0.125, {"network_calls": 5}, [124, 99, 74, 49, 24, CLEAN]),
        (0.03, {"network_calls": 2}, [29, 14, CLEAN]),
        (0.03, {"network_calls": 1}, [29, CLEAN]),
        (0.0296, {"network_calls": 1}, [29, CLEAN]),  # to the nearest timestep
    ],
)
def test_other_grids_start_one_timestep_below_and_end_clean(t: float, density: dict, expected: list[int]) -> None:
    assert timestep_grid(Schedule(), t, **density) == expected


@pytest.mark.parametrize(
    ("arguments", "key", "related"),
    [
        ({"t": 0.2, "grid_size": 3}, "grid_size", ()),
        ({"t": 0.2, "grid_size": 0}, "grid_size", ()),
        ({"t": 0.2, "grid_size": 4}, "grid_size", ("t",)),
        ({"t": 0.0001, "grid_size": 1000}, "t", ()),
        ({"t": 0.2, "grid_size": 4, "name": "t_large"}, "grid_size", ("t_large",)),
        ({"t": 0.03, "network_calls": 7}, "network_calls", ("t",)),
        ({"t": 0.03, "network_calls": 0}, "network_calls", ("t",)),
        ({"t": 0.0001, "network_calls": 1}, "t", ()),
    ],
)
def test_impossible_grids_are_refused(arguments: dict[str, Any], key: str, related: tuple) -> None:
    with pytest.raises(ConfigError) as caught:
        timestep_grid(Schedule(), **arguments)
    assert caught.value.key == key and caught.value.related == related


def test_the_least_grid_size_and_level_are_said() -> None:
    with pytest.raises(ConfigError, match=r"^grid_size is 4; accepted: 5 or more, so that a grid point lies in \(0, t"):
        timestep_grid(Schedule(), 0.2, grid_size=4)
    with pytest.raises(ConfigError, match=r"^t is 0.0001; accepted: 0.001 or more"):
        timestep_grid(Schedule(), 0.0001, network_calls=1)


@pytest.mark.parametrize(("t", "T"), [(0.0, 1000), (1.0, 1000), (-0.1, 1000), (float("nan"), 1000), (0.99, 10)])
def test_a_level_is_a_fraction_of_the_schedules_own_timesteps(t: float, T: int) -> None:
    """0.99 is a level of 1000 timesteps, but not of 10, where it rounds to all of them."""
    with pytest.raises(ConfigError) as caught:
        check_level(Schedule(T=T), t, "t_small")
    assert caught.value.key == "t_small"
    check_level(Schedule(), 0.99)


class ShortDenoiser(ToyDenoiser):
    """With a schedule of its own, of 100 timesteps."""

    schedule = Schedule(1e-3, 0.2, T=100)


def test_a_denoisers_own_schedule_counts() -> None:
    """Its T is in the grid, in the keys of rounds and in what is refused."""
    draws, denoiser = RecordingDraws(rows(2)), ShortDenoiser()
    purifier = RoundsPurifier(denoiser, [0.1, 0.2], [2, 2], eta=1.0)
    assert purifier.grids == [[9, 4, CLEAN], [19, 9, CLEAN]]
    purifier(images(2), draws)  # pyright: ignore
    assert draws.keys == [("diffuse", 9), ("step", 4), ("diffuse", 119), ("step", 109)]
    with pytest.raises(ConfigError, match=r"T = 100$"):
        timestep_grid(denoiser.schedule, 0.2, grid_size=1000)
    with pytest.raises(ConfigError) as caught:
        RoundsPurifier(denoiser, [0.1, 0.999], [1, 1], eta=1.0)
    assert caught.value.key == "t"


def test_the_loop_calls_the_network_once_a_step_and_hands_its_noise_on() -> None:
    seen: list[tuple[int, int]] = []

    def step(x: torch.Tensor, eps: torch.Tensor, t: int, s: int) -> torch.Tensor:
        assert torch.equal(eps, ToyDenoiser()(x, t))
        seen.append((t, s))
        return x - 0.1 * eps

    denoiser, x = ToyDenoiser(), images(2)
    out = Sampler(denoiser, rows(2)).sample(x, [30, 20, 5], step)
    assert seen == [(30, 20), (20, 5)] and denoiser.asked == [30, 20]
    y = x - 0.1 * ToyDenoiser()(x, 30)
    assert torch.equal(out, y - 0.1 * ToyDenoiser()(y, 20))


def test_however_little_noise_a_step_adds_it_is_drawn() -> None:
    x, eps, draws = images(2), images(2, seed=4), rows(2)
    found = Sampler(ToyDenoiser(), draws, eta=1e-3).step(x, eps, 3, 1)
    assert torch.equal(found, Schedule().ddim_step(x, eps, 3, 1, 1e-3, draws.normal_like(x, "step", 1)))


def test_views_show_every_round() -> None:
    purifier, x, draws = RoundsPurifier(ToyDenoiser(), [0.02, 0.03, 0.04], [1, 1, 2], eta=1.0), images(2), rows(2)
    views, results = purifier.views(x, draws), purifier.after_rounds(2 * x - 1, draws)
    assert list(views) == ["first noise", "after round 1", "after round 2", "purified"]
    for view, result in zip(list(views.values())[1:], results, strict=True):
        assert torch.equal(view, ((result + 1) / 2).clamp(0, 1))
    noisy = Sampler(ToyDenoiser(), draws).diffuse(2 * x - 1, 19)
    assert torch.equal(views["first noise"], ((noisy + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize(
    ("t", "network_calls", "key"), [([], [], "t"), ([0.1], [1, 1], "network_calls"), ([1.5], [1], "t")]
)
def test_impossible_rounds_are_refused(t: list[float], network_calls: list[int], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RoundsPurifier(ToyDenoiser(), t, network_calls, eta=1.0)
    assert caught.value.key == key and caught.value.related == (("t",) if key == "network_calls" else ())


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_impossible_eta_is_refused(eta: float) -> None:
    with pytest.raises(ConfigError, match=r"^eta is"):
        SamplingPurifier(ToyDenoiser(), [[10, CLEAN]], eta)
