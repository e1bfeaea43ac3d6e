import math

import pytest
import torch

from hetpure.purification.denoised_smoothing import DenoisedSmoothing, matching_timestep
from hetpure.purification.registry import complete_settings, default_ensemble_mode
from hetpure.schedule import Schedule
from tests.toys import LinearDenoiser, ToyDenoiser, abar, images, rows


def level(t: int) -> float:
    return math.sqrt((1 - abar(t)) / abar(t))


@pytest.mark.parametrize("sigma", [0.01, 0.25, 0.5, 1.0, 70.0])
def test_the_timestep_has_the_nearest_noise(sigma: float) -> None:
    t = matching_timestep(Schedule(), sigma)
    assert all(abs(level(t) - 2 * sigma) <= abs(level(other) - 2 * sigma) for other in (max(t - 1, 0), min(t + 1, 999)))


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_the_timestep_is_at_most_one_below_the_released_search(sigma: float) -> None:
    """The released code takes the first timestep with at least 2 sigma: the nearest or the one after it."""
    released = next(t for t in range(1, 1000) if level(t) >= 2 * sigma)
    assert matching_timestep(Schedule(), sigma) in (released - 1, released)


def test_it_is_one_prediction_of_the_scaled_noisy_image() -> None:
    """x(0|t) at sqrt(abar) (x + sigma eps) on [-1, 1], to 1e-12 in float64; one call at the matching timestep."""
    x, denoiser = images(4, 3, dtype=torch.float64), ToyDenoiser(3)
    purifier = DenoisedSmoothing(denoiser, sigma=0.25)
    found = purifier(x, rows(4))
    assert denoiser.asked == [purifier.t] and purifier.smoothing_sigma == 0.25
    noise, a = rows(4).normal_like(x, "diffuse", purifier.t), abar(purifier.t)
    x_t = math.sqrt(a) * (2 * (x + 0.25 * noise) - 1)
    x0 = (x_t - math.sqrt(1 - a) * denoiser(x_t, purifier.t)) / math.sqrt(a)
    torch.testing.assert_close(found, ((x0 + 1) / 2).clamp(0, 1), rtol=0, atol=1e-12)


def test_the_noise_has_the_stated_deviation() -> None:
    """Behind a denoiser that predicts nothing the image has noise of sigma, to 2 % (16384 values)."""
    x = torch.full((16, 1, 32, 32), 0.5, dtype=torch.float64)
    found = DenoisedSmoothing(LinearDenoiser(0.0), sigma=0.05)(x, rows(16))
    assert float((found - x).std()) == pytest.approx(0.05, rel=0.02)


def test_its_prediction_is_a_vote() -> None:
    assert DenoisedSmoothing(ToyDenoiser()).ensemble_mode == "vote"
    assert default_ensemble_mode(complete_settings({"name": "denoised_smoothing"})) == "vote"
