"""Baselines against closed forms, scipy and a JPEG library."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage, stats
from torch import Tensor

from hetpure.config import DataConfig, to_dict
from hetpure.data import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError
from hetpure.noise import Draws
from hetpure.purification.baselines import BitDepth, GaussianBlur, GaussianNoise, TotalVariation, _divergence, _gradient
from hetpure.purification.jpeg import JPEG, cosine_matrix
from tests.toys import images, rows


def total_variation(u: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_gradient(u), dim=0).sum(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    data = ImageDataModule(**{**to_dict(DataConfig()), "name": "cifar10_jpeg", "subset": 16}).prepare()
    return torch.stack([item(data.test_source, index)["image"] for index in data.indices])


def test_noise_has_its_standard_deviation() -> None:
    x = torch.full((64, 3, 32, 32), 0.5)
    draws = Draws(0, "defense", torch.arange(64), torch.zeros(64, dtype=torch.long))
    noise = GaussianNoise(0.05)(x, draws) - x
    assert float(noise.std()) == pytest.approx(0.05, rel=0.01) and abs(float(noise.mean())) < 1e-3
    assert stats.kstest(noise[:4].flatten().numpy() / 0.05, "norm").pvalue > 1e-3


def test_blur_is_scipys() -> None:
    x = images(2, 3, 16, torch.float64)
    blurred = ndimage.gaussian_filter(x.numpy(), (0, 0, 1.2, 1.2), mode="mirror", radius=(0, 0, 4, 4))
    np.testing.assert_allclose(GaussianBlur(1.2)(x, rows(2)).numpy(), blurred, rtol=0, atol=1e-12)


def test_a_blur_wider_than_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"purifier\.sigma is 3\.0; accepted: at most 2 for images of 8 pixels"):
        GaussianBlur(3.0)(images(1), rows(1))


def test_bit_depth_has_its_levels_and_is_nearest() -> None:
    x = images(4, 3, 16)
    squeezed = BitDepth(2)(x, rows(4))
    assert squeezed.unique().numpy() == pytest.approx(np.arange(4) / 3)
    assert float((squeezed - x).abs().max()) <= 1 / 6 + 1e-6
    grid = torch.arange(256).view(1, 1, 16, 16) / 255
    torch.testing.assert_close(BitDepth(8)(grid, rows(1)), grid, rtol=0, atol=1e-7)


# ---- total variation


def test_divergence_is_minus_the_adjoint_of_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    u, p = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 5, 7), (2, 2, 3, 5, 7)))
    assert float((_gradient(u) * p).sum()) == pytest.approx(-float((u * _divergence(p)).sum()), rel=1e-12)


def test_a_step_edge_shrinks_by_length_over_area() -> None:
    """Two halves a and b, H x W: each moves by weight * H / (H W / 2) towards the other."""
    x = torch.full((1, 1, 8, 8), 0.2, dtype=torch.float64)
    x[..., 4:] = 0.8
    found = TotalVariation(0.4, 2000)(x, rows(1))
    expected = x + 0.4 * 2 / 8 * torch.sign(0.5 - x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_iterations_reach_the_minimum() -> None:
    x, weight = images(2, 1, 8, torch.float64), 0.1

    def energy(u: Tensor) -> Tensor:
        return total_variation(u) + (u - x).square().sum(dim=(1, 2, 3)) / (2 * weight)

    found = TotalVariation(weight, 3000)(x, rows(2))
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            other = found + size * torch.randn(found.shape, generator=generator, dtype=torch.float64)
            assert (energy(found) < energy(other) + 1e-4).all()
    assert (energy(TotalVariation(weight, 100)(x, rows(2))) - energy(found) < 0.02 * energy(found)).all()


def test_a_flat_image_has_a_finite_gradient() -> None:
    x = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    TotalVariation(0.1, 20)(x, rows(1)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


# ---- JPEG


def test_the_cosine_transform_is_scipys() -> None:
    x = images(1, 1, 8, torch.float64)[0, 0]
    cosines, expected = cosine_matrix(x), np.asarray(fft.dctn(x.numpy(), norm="ortho"))
    np.testing.assert_allclose((cosines @ x @ cosines.T).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_images_are_a_jpeg_librarys(quality: int) -> None:
    """Up to the library's whole-number transform, which now and then turns a coefficient: 0.7 of 255 on average."""
    noise = np.random.default_rng(0).random((16, 3, 32, 32))
    smooth = np.clip(2.0 * ndimage.gaussian_filter(noise, (0, 0, 1, 1)) - 0.5, 0.0, 1.0)
    pictures = torch.tensor((255 * smooth).round() / 255, dtype=torch.float32)
    ours, theirs = JPEG(quality)(pictures, rows(16)), []
    for image in pictures:
        file = io.BytesIO()
        levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=0)
        theirs.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    gap = 255 * (ours - torch.stack(theirs)).abs()
    lost = 255 * (pictures - torch.stack(theirs)).abs().mean()
    assert float(gap.mean()) < 0.7 and float(gap.mean()) < 0.3 * float(lost)


def test_a_second_pass_changes_little_and_gray_images_work(photographs: Tensor) -> None:
    gray = photographs.mean(dim=1, keepdim=True)[..., :30, :27]
    once = JPEG(75)(gray, rows(16))
    assert once.shape == gray.shape
    assert float((JPEG(75)(once, rows(16)) - once).abs().mean()) < 0.1 * float((once - gray).abs().mean()) + 1e-3


def test_cubic_rounding_is_close_to_jpeg_and_has_a_gradient(photographs: Tensor) -> None:
    x = photographs[:4] + 0.01  # a JPEG file's own coefficients are at the edge of rounding
    hard = JPEG(20)(x, rows(4))
    cubic = JPEG(20, "cubic")(x.requires_grad_(), rows(4))
    assert float((hard - cubic).detach().abs().mean()) < 0.25 * float((hard - x).detach().abs().mean())
    (gradient,) = torch.autograd.grad(cubic.square().sum(), x)
    assert float(gradient.abs().mean()) > 0.05
    assert JPEG().differentiable is False and JPEG(rounding="cubic").differentiable is True
