"""FlowPure: Euler steps against the closed form of a linear velocity field; what is random; what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetpure.errors import AbsentError, ConfigError
from hetpure.models.diffusers_folder import save_diffusers, save_flow
from hetpure.models.flow import FlowField
from hetpure.purification.flowpure import FlowPurifier
from hetpure.purification.registry import build_purifier, complete_settings
from hetpure.schedule import Schedule
from tests.toys import ToyDenoiser, images, rows, tiny_classifier, tiny_unet


class Linear(nn.Module):
    """dx/ds = k x, with the times at which it was asked."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k
        self.asked: list[float] = []

    def forward(self, x: Tensor, s: float) -> Tensor:
        self.asked.append(s)
        return self.k * x


@pytest.mark.parametrize(
    ("preset", "start", "sigma"), [("gauss_0.15", 0.5, 0.15), ("gauss_0.2", 1 / 3, 0.2), ("pgd", 0.0, 0.0)]
)
def test_euler_steps_through_a_linear_field(preset: str, start: float, sigma: float) -> None:
    """x(1) = (1 + h k)^9 x(t), h = (1 - t) / 9, from the noise that the preset's name says: to 1e-12."""
    x, network = images(3, 3, dtype=torch.float64), Linear(-0.8)
    found = FlowPurifier(network, **FlowPurifier.PRESETS[preset])(x, rows(3))
    h = (1 - start) / 9
    noisy = x + (sigma * rows(3).normal_like(x, "diffuse", 0) if sigma else 0.0)
    expected = ((1 - 0.8 * h) ** 9 * (2 * noisy - 1) + 1) / 2
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.tensor(network.asked), torch.tensor([start + n * h for n in range(9)]))


def test_the_straight_field_ends_at_the_clean_image() -> None:
    """The velocity of lines to an image c, (c - x) / (1 - s), ends at c in any number of steps: to 1e-12."""
    x, clean = images(3, 3, dtype=torch.float64), images(3, 3, dtype=torch.float64).flip(0)

    class Straight(nn.Module):
        def forward(self, y: Tensor, s: float) -> Tensor:
            return (2 * clean - 1 - y) / (1 - s)

    for calls in (1, 2, 7):
        found = FlowPurifier(Straight(), network_calls=calls)(x, rows(3))
        torch.testing.assert_close(found, clean, rtol=1e-12, atol=1e-12)


def test_only_noise_is_random() -> None:
    x = images(2, 3)
    noisy, still = FlowPurifier(Linear(0.1)), FlowPurifier(Linear(0.1), **FlowPurifier.PRESETS["cw"])
    assert noisy.stochastic and not still.stochastic
    assert not torch.equal(noisy(x, rows(2)), noisy(x, rows(2, draw=1)))
    assert torch.equal(still(x, rows(2)), still(x, rows(2, draw=1)))


def test_the_field_asks_the_unet_with_diffusers_labels_and_sign() -> None:
    unet, x = tiny_unet(3), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(FlowField(unet)(x, 0.75), -unet(x, torch.tensor([250.0, 250.0])).sample)


def settings(weights: Any) -> dict[str, Any]:
    return complete_settings({"name": "flowpure", "network": {"weights": str(weights)}})


def test_a_folder_is_loaded_and_a_denoisers_is_refused(tmp_path) -> None:
    save_flow(tiny_unet(3), tmp_path / "flow")
    save_diffusers(tiny_unet(3), Schedule(), tmp_path / "denoiser")
    classifier, x = tiny_classifier(3), images(2, 3)
    purifier = build_purifier(settings(tmp_path / "flow"), classifier, None)
    expected = FlowPurifier(FlowField(tiny_unet(3)))
    torch.testing.assert_close(purifier(x, rows(2)), expected(x, rows(2)))
    assert isinstance(purifier, FlowPurifier) and purifier.preset == "gauss_0.15"
    purifier.check_images((3, 8, 8))
    with pytest.raises(
        ConfigError, match=r"^purifier\.network\.weights: .*_class_name is 'DDPMScheduler'; accepted: a"
    ):
        build_purifier(settings(tmp_path / "denoiser"), classifier, None)
    with pytest.raises(AbsentError, match=r"^purifier\.network\.weights: .*nothing: no such file"):
        build_purifier(settings(tmp_path / "nothing"), classifier, None)
    with pytest.raises(AbsentError, match=r"^purifier\.network\.weights: is missing, and the flowpure purifier needs"):
        build_purifier(complete_settings({"name": "flowpure"}), classifier, None)
    with pytest.raises(ConfigError, match=r"^network is 'ToyDenoiser'; accepted: a flow"):
        FlowPurifier(ToyDenoiser(3))
