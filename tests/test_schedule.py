import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from hetpure.schedule import CLEAN, Schedule
from tests.toys import abar, alpha


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


def normal(seed: int, shape=(2, 3, 4, 4)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alpha_bar_is_the_cumulative_product_of_a_linear_ramp(schedule: Schedule) -> None:
    product = 1.0
    for t in range(1000):
        beta = 1e-4 + (2e-2 - 1e-4) * t / 999
        product *= 1.0 - beta
        assert schedule.alpha_bar(t) == pytest.approx(product, rel=1e-12)


def test_alpha_bar_at_both_ends(schedule: Schedule) -> None:
    assert schedule.alpha_bar(CLEAN) == 1.0
    assert schedule.alpha_bar(0) == pytest.approx(0.9999, rel=1e-15)
    assert schedule.alpha_bar(999) == pytest.approx(4.0358e-5, rel=1e-4)  # DDPM's well-known last value
    for outside in (-2, 1000):
        with pytest.raises(ValueError):
            schedule.alpha_bar(outside)


def test_other_schedules_have_their_own_coefficients() -> None:
    short = Schedule(0.1, 0.3, T=3)
    assert [short.alpha_bar(t) for t in range(3)] == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rel=1e-14)


@pytest.mark.parametrize("t", [0, 1, 200, 999])
def test_diffuse_is_eq_1(schedule: Schedule, t: int) -> None:
    x0, noise = normal(0), normal(1)
    expected = math.sqrt(abar(t)) * x0 + math.sqrt(1 - abar(t)) * noise
    torch.testing.assert_close(schedule.diffuse(x0, t, noise), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), [(CLEAN, 5), (0, 1), (99, 102), (100, 200), (49, 59)])
def test_diffuse_further_composes_single_steps(schedule: Schedule, s: int, t: int) -> None:
    """Eq. (10) t - s times: the mean's factor and the variance, accumulated step by step."""
    factor, variance = 1.0, 0.0
    for step in range(s + 1, t + 1):
        factor, variance = math.sqrt(alpha(step)) * factor, alpha(step) * variance + 1.0 - alpha(step)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert schedule.diffuse_further(one, s, t, zero).item() == pytest.approx(factor, rel=1e-12)
    assert schedule.diffuse_further(zero, s, t, one).item() ** 2 == pytest.approx(variance, rel=1e-10)


def test_diffuse_further_leaves_a_single_timestep_alone_and_refuses_to_go_back(schedule: Schedule) -> None:
    x, noise = normal(0), normal(1)
    torch.testing.assert_close(schedule.diffuse_further(x, 7, 7, noise), x, rtol=0, atol=0)
    with pytest.raises(ValueError):
        schedule.diffuse_further(x, 8, 7, noise)


def test_predict_x0_undoes_diffuse(schedule: Schedule) -> None:
    x0, noise = normal(0), normal(1)
    back = schedule.predict_x0(schedule.diffuse(x0, 300, noise), 300, noise)
    torch.testing.assert_close(back, x0, rtol=1e-12, atol=1e-12)


def ddim(steps: int) -> DDIMScheduler:
    """diffusers' scheduler with its float32 table replaced by float64, so that steps can be compared tightly."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", clip_sample=False
    )
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), [abar(t) for t in range(1000)], rtol=2e-5)
    scheduler.alphas_cumprod = torch.tensor([abar(t) for t in range(1000)], dtype=torch.float64)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize(("steps", "t"), [(500, 200), (500, 2), (10, 200), (10, 100), (1000, 1), (1000, 0), (10, 0)])
def test_ddim_step_is_diffusers_step(schedule: Schedule, eta: float, steps: int, t: int) -> None:
    x, eps, noise = normal(0), normal(1), normal(2)
    expected = ddim(steps).step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
    s = max(t - 1000 // steps, CLEAN)
    torch.testing.assert_close(schedule.ddim_step(x, eps, t, s, eta, noise), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [999, 200, 50, 1, 0])
def test_with_eta_1_it_is_diffusers_ddpm_step(schedule: Schedule, t: int) -> None:
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        variance_type="fixed_small",
        clip_sample=False,
    )
    scheduler.alphas_cumprod = torch.tensor([abar(k) for k in range(1000)], dtype=torch.float64)
    x, eps = normal(0), normal(1)
    expected = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(7)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    torch.testing.assert_close(schedule.ddim_step(x, eps, t, t - 1, 1.0, noise), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [200, 50, 1])
def test_with_eta_1_it_is_algorithm_1s_printed_step(schedule: Schedule, t: int) -> None:
    """1 / sqrt(alpha_t) (x_t - beta_t / sqrt(1 - abar_t) eps) + sigma_t z with the posterior variance."""
    x, eps, z = normal(0), normal(1), normal(2)
    beta = 1 - alpha(t)
    sigma = math.sqrt(beta * (1 - abar(t - 1)) / (1 - abar(t)))
    expected = (x - beta / math.sqrt(1 - abar(t)) * eps) / math.sqrt(alpha(t)) + sigma * z
    torch.testing.assert_close(schedule.ddim_step(x, eps, t, t - 1, 1.0, z), expected, rtol=1e-10, atol=1e-10)


def test_a_perfect_prediction_leads_down_the_diffusion_path(schedule: Schedule) -> None:
    """With the true noise, deterministic DDIM lands on the same image with the same noise at the lower level."""
    x0, noise = normal(0), normal(1)
    x = schedule.diffuse(x0, 400, noise)
    torch.testing.assert_close(
        schedule.ddim_step(x, noise, 400, 150), schedule.diffuse(x0, 150, noise), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(schedule.ddim_step(x, noise, 400, CLEAN), x0, rtol=1e-12, atol=1e-12)


def test_steps_refuse_what_cannot_be(schedule: Schedule) -> None:
    x, eps = normal(0), normal(1)
    with pytest.raises(ValueError):
        schedule.ddim_step(x, eps, 5, 5)
    with pytest.raises(ValueError):
        schedule.ddim_step(x, eps, 5, 6)
    with pytest.raises(ValueError, match="noise"):
        schedule.ddim_step(x, eps, 5, 4, eta=1.0)
    schedule.ddim_step(x, eps, 0, CLEAN, eta=1.0)  # the last step adds none
