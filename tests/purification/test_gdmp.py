import math

import pytest
import torch

from hetpure.purification.gdmp import GuidedPurifier, ssim
from tests.toys import RecordingDraws, ToyDenoiser, abar, images, rows


@pytest.mark.parametrize("guide", ["mse", "ssim"])
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("stride", [1, 2])
def test_gdmp_is_guided_ddpm(guide: str, variance: str, stride: int) -> None:
    """Wang et al.'s Algorithm written out with the derivative of D by autograd, two rounds, to 1e-9.

    A coarser grid is the same on the schedule of its own timesteps (guided_diffusion's respacing).
    """
    x, draws, denoiser = images(2, 3, dtype=torch.float64), rows(2), ToyDenoiser(3)
    image, n, scale = 2 * x - 1, 6, 20.0
    y = image
    for number in range(2):
        y = math.sqrt(abar(n)) * y + math.sqrt(1 - abar(n)) * draws.normal_like(y, "diffuse", n + 1000 * number)
        for t in range(n - 1, -1, -stride):
            beta = 1 - abar(t) / abar(t - stride)
            posterior = [
                (1 - abar(s) / abar(s - stride)) * (1 - abar(s - stride)) / (1 - abar(s)) for s in (t, 2 * stride - 1)
            ]
            last = t < stride
            sigma2 = (posterior[1] if last else beta) if variance == "large" else posterior[0]
            x0 = (y - math.sqrt(1 - abar(t)) * denoiser(y, t)) / math.sqrt(abar(t))
            below = abar(t - stride)
            mu = math.sqrt(below) * beta * x0.clamp(-1, 1) + math.sqrt(1 - beta) * (1 - below) * y
            mu = mu / (1 - abar(t))
            target = math.sqrt(abar(t)) * image + math.sqrt(1 - abar(t)) * draws.normal_like(
                y, "guide", t + 1000 * number
            )
            at = y.detach().requires_grad_()
            d = -((at - target) ** 2).mean(dim=(1, 2, 3)) if guide == "mse" else ssim(at, target)
            (g,) = torch.autograd.grad(d.sum(), at)
            m = (2 * 8 / 255) / 3 / scale
            y = mu + sigma2 * g * math.sqrt(1 - abar(t)) / (m * math.sqrt(abar(t)))
            if not last:
                y = y + math.sqrt(sigma2) * draws.normal_like(y, "step", t + 1000 * number)
    more = {"variance": variance, "grid_size": 1000 // stride}
    found = GuidedPurifier(denoiser, 0.006, 2, guide, scale, **more)(x, draws)  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9)


def test_a_coarse_grid_saves_calls() -> None:
    """And the image is noised to 200, one timestep above the first that is denoised."""
    purifier, draws = GuidedPurifier(ToyDenoiser(3), 0.23, 1, grid_size=20), RecordingDraws(rows(1))
    assert purifier.grids == [[199, 149, 99, 49, -1]] and purifier.network_calls == 4
    purifier(images(1, 3), draws)  # pyright: ignore
    assert draws.keys[0] == ("diffuse", 200)


def test_strong_guidance_keeps_the_image() -> None:
    """The result of the released setting is nearer to the input than without guidance."""
    x = 0.2 + 0.6 * images(2, 3, dtype=torch.float64)
    near, far = (GuidedPurifier(ToyDenoiser(3), scale=s, rounds=1)(x, rows(2)) for s in (600.0, 0.0))
    assert (near - x).norm() < (far - x).norm()


def test_ssim_is_1_for_equals_and_the_formula_for_constants() -> None:
    a = images(2, 3, dtype=torch.float64)
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
    big = torch.ones(1, 1, 41, 41, dtype=torch.float64)
    got = ssim(0.5 * big, 0.25 * big)
    inside = (2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4)
    assert 0.5 * inside < got.item() < 1.0
    with pytest.raises(RuntimeError):
        ssim(a, a[:, :, :4])
