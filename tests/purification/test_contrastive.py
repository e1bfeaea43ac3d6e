"""Contrastive guidance against its equations."""

import math

import pytest
import torch
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.purification.contrastive import ContrastivePurifier, info_nce
from tests.toys import ToyDenoiser, abar, images, rows, tiny_classifier


def cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def loss_by_hand(a: Tensor, p: Tensor, others: list[Tensor], T: float, tau: float, beta: float) -> float:
    pos, neg = math.exp(cosine(a, p) / T), [math.exp(cosine(a, n) / T) for n in others]
    K, weights = len(neg), [n**beta for n in neg]
    hard = sum(w * n for w, n in zip(weights, neg, strict=True)) / (sum(weights) / K)
    against = max((hard - tau * K * pos) / (1 - tau), K * math.exp(-1 / T))
    return -math.log(pos / (pos + against))


@pytest.mark.parametrize(("T", "tau", "beta"), [(1.0, 0.1, 1.0), (0.5, 0.0, 0.0), (0.1, 0.6, 2.0)])
def test_info_nce(T: float, tau: float, beta: float) -> None:
    """Each row by hand, to 1e-10; the third case reaches the lower bound of the negatives."""
    draw = torch.Generator().manual_seed(0)
    a, p = (torch.randn(4, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    p, n = a + 0.5 * p, torch.randn(4, 3, 6, generator=draw, dtype=torch.float64)
    expected = [loss_by_hand(a[i], p[i], list(n[i]), T, tau, beta) for i in range(4)]
    torch.testing.assert_close(info_nce(a, p, n, T, tau, beta), torch.tensor(expected, dtype=torch.float64))


def test_contrastive_is_ddpm_with_shifted_noise() -> None:
    """Three steps written out, with the loss's derivative by autograd, to 1e-9."""
    x, draws, denoiser = images(2, 3, dtype=torch.float64), rows(2), ToyDenoiser(3)
    f = tiny_classifier(3, dtype=torch.float64)
    purifier = ContrastivePurifier(denoiser, f, 0.06, 50, scale=30.0, negatives=2)
    y = math.sqrt(abar(59)) * (2 * x - 1) + math.sqrt(1 - abar(59)) * draws.normal_like(x, "diffuse", 59)
    before = None
    for t, s in ((59, 39), (39, 19), (19, -1)):
        e = denoiser(y, t)
        if before is not None:
            negatives = purifier.shuffled(before, draws, t)
            at = y.clone().requires_grad_()
            a, p = f((at + 1) / 2), f((before + 1) / 2)
            others = torch.stack([f((negatives[:, k] + 1) / 2) for k in range(2)], dim=1)
            (g,) = torch.autograd.grad(info_nce(a, p, others, 1.0, 0.1, 1.0).sum(), at)
            assert g.abs().max() > 1e-4
            e = e + 30.0 * g
        x0 = (y - math.sqrt(1 - abar(t)) * e) / math.sqrt(abar(t))
        sigma = math.sqrt((1 - abar(s)) / (1 - abar(t)) * (1 - abar(t) / abar(s)))
        before = y
        y = math.sqrt(abar(s)) * x0 + math.sqrt(1 - abar(s) - sigma**2) * e
        y = y + (sigma * draws.normal_like(y, "step", s) if s >= 0 else 0)
    torch.testing.assert_close(purifier(x, draws), ((y + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9)


def test_negatives_are_the_images_own_patches_in_another_order() -> None:
    """Draws differ by image, negative and timestep; images need no square."""
    x = torch.arange(2.0 * 3 * 8 * 16).view(2, 3, 8, 16)
    purifier = ContrastivePurifier(ToyDenoiser(3), tiny_classifier(3))
    found = purifier.shuffled(x, rows(2), 5)
    assert found.shape == (2, 4, 3, 8, 16)
    orders = []
    for i in range(2):
        tiles = [x[i, :, 2 * r : 2 * r + 2, 4 * c : 4 * c + 4] for r in range(4) for c in range(4)]
        for image in found[i]:
            cut = [image[:, 2 * r : 2 * r + 2, 4 * c : 4 * c + 4] for r in range(4) for c in range(4)]
            orders.append(tuple(n for tile in cut for n, own in enumerate(tiles) if torch.equal(tile, own)))
    assert all(sorted(order) == list(range(16)) for order in orders) and len(set(orders)) == 8
    assert not torch.equal(found, purifier.shuffled(x, rows(2), 6))
    with pytest.raises(ConfigError, match=r"^patches is 3; accepted: a divisor of both sides of the 8x16 images"):
        ContrastivePurifier(ToyDenoiser(3), tiny_classifier(3), patches=3)(x, rows(2))


def test_a_compiled_classifier_guides_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile gives no second derivative: with it, the gradient is the same bits as without."""
    found = []
    for compiled in (False, True):
        classifier = tiny_classifier().requires_grad_(False)
        if compiled:
            monkeypatch.setattr(classifier.network, "_compiled_call_impl", lambda *_: pytest.fail("compiled call"))
        x = images(2).requires_grad_()
        purifier = ContrastivePurifier(ToyDenoiser(), classifier, t=0.06, grid_size=50, negatives=2)
        found += torch.autograd.grad(purifier(x, rows(2)).square().sum(), x)
    assert torch.equal(*found)
