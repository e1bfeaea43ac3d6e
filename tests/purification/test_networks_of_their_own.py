"""PixelDefend, Langevin dynamics and AToP around toy networks: their equations, their gradients, what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hetpure.attacks.registry import build_gradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.purification.atop import TrainedPurifier
from hetpure.purification.ebm import EnergyPurifier
from hetpure.purification.pixeldefend import PixelDefendPurifier
from hetpure.purification.registry import build_purifier, complete_settings
from tests.purification.networks import Constant, ToyEnergy, ToyInpainter, ToyPixelCNN, network_settings
from tests.toys import images, rows, tiny_classifier


def test_langevin_is_its_equation() -> None:
    """x - s grad U + tau z on [-1, 1], clamped at the end: to 1e-9, grad U by hand."""
    x, energy = images(3, 3, dtype=torch.float64), ToyEnergy()

    def slope(y: torch.Tensor) -> torch.Tensor:
        inner = torch.sinh(y + 0.3 * y.roll(1, dims=-1) - 0.2)
        return energy.strength.detach() * (inner + 0.3 * inner.roll(-1, dims=-1) + y)

    y = 2 * x - 1
    for step in range(5):
        y = y - 0.7 * slope(y) + 0.3 * rows(3).normal_like(x, "step", step)
    found = EnergyPurifier(energy, langevin_steps=5, step_size=0.7, noise=0.3)(x, rows(3))
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9)
    assert bool((y.abs() > 1).any()), "nothing was clamped"


def test_langevin_gradients_need_no_graph_of_the_chain() -> None:
    """The same as autograd through all steps at once, to 1e-9; and it is there where gradients are switched off."""
    x = (0.3 + 0.4 * images(2, 3, dtype=torch.float64)).requires_grad_()
    purifier = EnergyPurifier(ToyEnergy().requires_grad_(False), langevin_steps=4, noise=0.05)
    (found,) = torch.autograd.grad(purifier(x, rows(2)).square().sum(), x)
    y = 2 * x - 1
    for step in range(4):
        y = y - purifier.slope(y, differentiable=True) + 0.05 * rows(2).normal_like(x, "step", step)
    (expected,) = torch.autograd.grad(((y + 1) / 2).clamp(0, 1).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.equal(purifier(x, rows(2)), purifier(x, rows(2)))


def test_atop_is_its_equation() -> None:
    """Noise, clip, a quarter of the blocks to 0, ones and mask beside it, the refined image whole: to 1e-9."""
    x, network = images(3, 3, dtype=torch.float64), ToyInpainter()
    purifier = TrainedPurifier(network, sigma=0.25, missing=0.25, block=2)
    noisy = 2 * (x + 0.25 * rows(3).normal_like(x, "diffuse", 0)).clamp(0, 1) - 1
    found = purifier(x, rows(3))
    seen = 2 * purifier.views(x, rows(3))["noise and gaps"] - 1
    gaps = (seen == 0.0).all(dim=1, keepdim=True)
    blocks = gaps.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).double()
    assert torch.equal(blocks.amin(-1), blocks.amax(-1)), "gaps are whole blocks"
    assert torch.equal(blocks.amax(-1).flatten(1).sum(1), torch.full((3,), 4.0, dtype=torch.float64))
    assert not torch.equal(gaps[0], gaps[1]), "each row has gaps of its own"
    for row in range(3):
        mask = gaps[row : row + 1].double()
        given = noisy[row : row + 1] * (1 - mask)
        _, refined = network(torch.cat((given, torch.ones_like(mask), mask), dim=1), mask)
        torch.testing.assert_close(found[row : row + 1], (refined + 1) / 2, rtol=1e-9, atol=1e-9)


def test_pixeldefend_is_its_loop() -> None:
    """Algorithm 1 in whole numbers, each value from the network asked afresh: equal."""
    x, network = images(2, 3, size=4), ToyPixelCNN().requires_grad_(False)
    given = [[round(255 * v) for v in row.flatten().tolist()] for row in x]
    moved = 0
    found = PixelDefendPurifier(network, eps=10 / 255 - 1e-9, shape=[3, 4, 4])(x, rows(2))
    for image, numbers in zip(found, given, strict=True):
        before = [100.0, 100.0]
        for i in range(4):
            for j in range(4):
                for c in range(3):
                    old = numbers[c * 16 + i * 4 + j]
                    mean = 0.7 * before[-1] + 0.3 * before[-2]
                    window = range(max(old - 10, 0), min(old + 10, 255) + 1)
                    best = min(window, key=lambda z: abs(z - mean))
                    assert round(255 * image[c, i, j].item()) == best
                    before.append(float(best))
                    moved += best != old
    assert moved > 50


def test_pixeldefend_does_not_touch_what_is_likeliest() -> None:
    x = images(1, 3, size=4)
    purifier = PixelDefendPurifier(ToyPixelCNN(), eps=1.0, shape=[3, 4, 4])
    once = purifier(x, rows(1))
    torch.testing.assert_close(purifier(once, rows(1)), once, rtol=0, atol=0)
    torch.testing.assert_close(PixelDefendPurifier(ToyPixelCNN(), eps=0.0, shape=[3, 4, 4])(once, rows(1)), once)


def test_pixeldefend_gradients_are_zero_and_bpda_is_the_attack() -> None:
    settings = {"name": "pixeldefend", "shape": [3, 4, 4], "network": network_settings("ToyPixelCNN")}
    classifier = tiny_classifier(3)
    purifier = build_purifier(complete_settings(settings), classifier, None)
    x = images(2, 3, size=4).requires_grad_()
    (gradient,) = torch.autograd.grad(purifier(x, rows(2)).square().sum(), x)
    assert bool((gradient == 0.0).all())
    process = PurifiedClassifier(classifier, purifier, 10)
    for name in ("exact", "surrogate", "deterministic"):
        with pytest.raises(ValueError, match=f"^name is '{name}', .*; accepted: bpda, blind"):
            build_gradient({"name": name}, process, 1, 0)
    label, sample = torch.tensor([1, 2]), torch.arange(2)
    found = build_gradient({"name": "bpda"}, process, 4, 0)(x.detach(), label, sample, 0)
    at = purifier(x.detach(), rows(2)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(classifier(at), label, reduction="sum")
    torch.testing.assert_close(found.value, torch.autograd.grad(loss, at)[0])


class Infinite(nn.Module):
    """Not finite where the first value is above a half."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> Any:
        found = self.wrapped(x, *more)
        broken = x[:, :1, :1, :1] > 0.5
        if isinstance(found, tuple):
            return found[0], torch.where(broken, math.inf, found[1])
        if found.ndim == 5:
            return torch.where(broken[..., None], math.nan, found)
        return found * torch.where(broken.flatten(), math.inf, 1.0)


@pytest.mark.parametrize(
    "purifier",
    [
        EnergyPurifier(Infinite(ToyEnergy()), langevin_steps=2),
        TrainedPurifier(Infinite(ToyInpainter()), block=4, sigma=0.0, missing=0.0),
        PixelDefendPurifier(Infinite(ToyPixelCNN()), shape=[3, 8, 8], eps=0.0),
    ],
    ids=lambda purifier: type(purifier).__name__,
)
def test_what_is_not_finite_is_not_clamped_away(purifier: Any) -> None:
    x = images(2, 3)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1.0, 0.0
    found = purifier(x, rows(2))
    assert bool(found[0].isnan().any()) and bool(found[1].isfinite().all())


@pytest.mark.parametrize(
    ("name", "what"),
    [("pixeldefend", "a PixelCNN"), ("ebm", "an energy-based model"), ("atop", "a trained purifier")],
)
def test_a_missing_network_is_one_line_with_its_key(name: str, what: str, tmp_path: Path) -> None:
    """The config itself is right: a table reads it, and marks the row when it comes to build it."""

    def refused(network: dict[str, Any]) -> str:
        settings = complete_settings({"name": name, "network": network})
        with pytest.raises(ConfigError) as caught:
            build_purifier(settings, tiny_classifier(3), None)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = network_settings("ToyEnergy")
    assert refused({}).startswith(f"purifier.network.name: is missing, and the {name} purifier needs {what}")
    line = refused({"name": good["name"], "source": "https://example.org/w"})
    assert line.startswith("purifier.network.weights: is missing") and line.endswith(
        "it comes from https://example.org/w"
    )
    absent = refused({**good, "weights": str(tmp_path / "no.pt"), "source": "there"})
    assert absent.startswith("purifier.network.weights: ") and "no such file; it comes from there" in absent
    assert refused({**good, "name": "energy"}).startswith("purifier.network.name is 'energy'")
    assert refused({**good, "arguments": {"depth": 3}}).startswith("purifier.network.arguments: ")
    assert "other shapes strength" in refused({**good, "arguments": {"channels": 4}})


def test_network_keys_are_checked() -> None:
    for network, message in (
        (
            {"wieghts": "x"},
            r"purifier\.network\.wieghts: unknown key; accepted: name, weights.*did you mean weights",
        ),
        (3, r"purifier\.network is 3; accepted: a section of keys"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            complete_settings({"name": "ebm", "network": network})
    with pytest.raises(ConfigError, match=r"^purifier\.network: unknown key"):
        complete_settings({"name": "menet", "network": {}})


@pytest.mark.parametrize(
    ("purifier", "message"),
    [
        (EnergyPurifier(Constant(7)), "network.name: the network returns (7,) for 1 rows"),
        (EnergyPurifier(Constant(1)), "network.name: the network does not take 3x8x8 images"),  # no gradient
        (EnergyPurifier(nn.Conv2d(1, 1, 3)), "network.name: the network does not take 3x8x8 images: RuntimeError"),
        (
            TrainedPurifier(Constant(1, 3, 4, 4), block=4),
            "network.name: the network returns (1, 3, 4, 4), and (1, 3, 8",
        ),
        (TrainedPurifier(ToyInpainter(), block=3), "block is 3; accepted: a divisor of both sides of the 8x8 images"),
        (
            PixelDefendPurifier(ToyPixelCNN()),
            "shape is [3, 32, 32]; accepted: the shape of the data's images, [3, 8, 8]",
        ),
        (PixelDefendPurifier(Constant(1, 256, 3), shape=[3, 8, 8]), "network.name: the network returns (1, 256, 3)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_networks_that_do_not_fit_are_refused_at_once(purifier: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        purifier.check_images((3, 8, 8))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
