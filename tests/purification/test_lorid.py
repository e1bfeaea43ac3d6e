"""LoRID: the Tucker approximation by numpy's SVD, then the loops."""

import math

import numpy as np
import pytest
import torch

from hetpure.purification.lorid import LowRankIterativePurifier, tucker
from tests.toys import ToyDenoiser, abar, images, rows


def unfold(x: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)


def times(x: np.ndarray, matrix: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, x, (1, mode)), 0, mode)


def by_numpy(x: np.ndarray, ranks: tuple[int, ...], sweeps: int) -> np.ndarray:
    """Core and factors, as in the textbook."""
    factors = [np.linalg.svd(unfold(x, n))[0][:, :r] for n, r in enumerate(ranks)]
    for _ in range(sweeps):
        for n, r in enumerate(ranks):
            y = x
            for m, factor in enumerate(factors):
                y = y if m == n else times(y, factor.T, m)
            factors[n] = np.linalg.svd(unfold(y, n))[0][:, :r]
    core = x
    for n, factor in enumerate(factors):
        core = times(core, factor.T, n)
    for n, factor in enumerate(factors):
        core = times(core, factor, n)
    return core


@pytest.mark.parametrize("sweeps", [0, 1, 3])
@pytest.mark.parametrize("ranks", [(3, 4, 4), (2, 5, 3), (1, 1, 1)])
def test_tucker_is_the_textbook_one(ranks: tuple[int, ...], sweeps: int) -> None:
    """To 1e-10; and iterating never makes the approximation worse."""
    x = images(2, 3, dtype=torch.float64)
    found = tucker(x, ranks, sweeps)
    for image, approximation in zip(x.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(approximation, by_numpy(image, ranks, sweeps), atol=1e-10)
    assert (found - x).norm() <= (tucker(x, ranks, 0) - x).norm() + 1e-12


def test_tucker_has_its_exact_gradient() -> None:
    x = images(2, 3, size=5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tucker(z, (2, 3, 3), 1), x)


def test_lorid_is_tucker_then_ddpm_loops() -> None:
    """The loop written out, two loops of two DDPM steps, to 1e-9."""
    x, draws, denoiser = images(2, 3, dtype=torch.float64), rows(2), ToyDenoiser(3)
    y = torch.from_numpy(np.stack([by_numpy(2 * z - 1, (3, 4, 4), 1) for z in x.numpy()]))
    for number in range(2):
        y = math.sqrt(abar(19)) * y + math.sqrt(1 - abar(19)) * draws.normal_like(y, "diffuse", 19 + 1000 * number)
        for t, s in ((19, 9), (9, -1)):
            e = denoiser(y, t)
            x0 = (y - math.sqrt(1 - abar(t)) * e) / math.sqrt(abar(t))
            sigma = math.sqrt((1 - abar(s)) / (1 - abar(t)) * (1 - abar(t) / abar(s)))
            y = math.sqrt(abar(s)) * x0 + math.sqrt(1 - abar(s) - sigma**2) * e
            if s >= 0:
                y = y + sigma * draws.normal_like(y, "step", s + 1000 * number)
    found = LowRankIterativePurifier(denoiser, 0.02, 2, 2, share=0.5)(x, draws)  # pyright: ignore
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9)


def test_all_ranks_leave_the_image() -> None:
    x = images(2, 3)
    purifier = LowRankIterativePurifier(ToyDenoiser(3), share=1.0)
    assert torch.equal(purifier.low_rank(x), x) and purifier.network_calls == 100
