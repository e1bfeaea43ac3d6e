from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hetpure.attacks import perceptual
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.low_frequency import KERNELS, LowFrequency, filtered, start_logits
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import AbsentError, ConfigError
from hetpure.purification.none import NoPurifier
from tests.toys import images


def coarse(a: Tensor, b: Tensor) -> Tensor:
    """Stands for LPIPS: the mean square of the blurred difference."""
    return functional.avg_pool2d(a - b, 2).square().mean()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "load_lpips", lambda device: coarse)


def test_filters_are_the_bilateral_ones_pixel_by_pixel() -> None:
    image, guide = images(1, 2, 5, seed=1).double(), images(1, 2, 5, seed=2).double()
    logits = torch.randn(2, 3, 5, 5, dtype=torch.float64)  # kernels of 3 x 5
    found = filtered(image, guide, logits, 0.5)
    padded = [functional.pad(each, (2, 2, 1, 1), mode="reflect")[0] for each in (image, guide)]
    for i in range(5):
        for j in range(5):
            weights, values = [], []
            for k in range(3):
                for m in range(5):
                    spatial = logits[1 - abs(k - 1), 2 - abs(m - 2), i, j].exp()
                    d = (padded[1][:, i + k, j + m] - guide[0, :, i, j]).abs().sum()
                    weights.append(spatial * torch.exp(-d * d / (2 * 0.5**2)))
                    values.append(padded[0][:, i + k, j + m])
            each = torch.stack(weights)
            expected = (each[:, None] * torch.stack(values)).sum(0) / each.sum()
            torch.testing.assert_close(found[0, :, i, j], expected)


def test_gradients_through_filters_agree_with_finite_differences() -> None:
    image, guide = images(1, 2, 4).double().requires_grad_(), images(1, 2, 4, seed=5).double()
    logits = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image, logits: filtered(image, guide, logits, 0.5), (image, logits))


def test_filters_start_as_next_to_nothing() -> None:
    x = images(1, 3, 12)
    image = x
    for kernel in KERNELS:
        image = filtered(image, x, start_logits(kernel, (12, 12)), 0.05)
    assert 0 < (image - x).abs().max() < 2e-3


def test_the_strongest_iterate_within_the_distance_is_kept_and_batches_agree(stand_in, classifier) -> None:
    gradient = ExactGradient(PurifiedClassifier(classifier, NoPurifier(), 10, chunk_size=8), 1, 0)
    x, sample, label = images(5), torch.arange(5) * 7, torch.arange(5)
    attack = LowFrequency(eps=1e-3, steps=12, step_size=0.3, kernels=[[3, 3], [5, 3]])
    losses: list[Tensor] = []
    whole = attack(gradient, x, label, sample, lambda i, g: losses.append(g.loss))
    assert len(losses) == attack.steps and (torch.stack(losses).amax(0) > losses[0]).all()
    distances = [float(coarse(a, b)) for a, b in zip(whole.split(1), x.split(1), strict=True)]
    assert max(distances) < 1e-3 and min(distances) > 1e-5, "within the distance, and not at its centre"
    assert whole.min() >= 0.0 and whole.max() <= 1.0
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        assert torch.equal(attack(gradient, x[part], label[part], sample[part]), whole[part])
    far = LowFrequency(eps=1e-15, steps=2, kernels=[[3, 3]])
    assert torch.equal(far(gradient, x, label, sample), x), "no iterate is near enough"


def test_without_weights_a_run_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(AbsentError, match=r"^norm is 'LPIPS', needs the weights of VGG-16, .* does not exist") as found:
        LowFrequency().check_images([0], lambda index: torch.zeros(3, 32, 32))
    assert "\n" not in str(found.value) and len(str(found.value)) < 300
    with pytest.raises(ConfigError, match=r"^norm is 'LPIPS'; accepted: LPIPS needs images of .* at least 16 x 16"):
        LowFrequency().check_images([0], lambda index: torch.zeros(1, 8, 8))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()
    LowFrequency().check_images([0], lambda index: torch.zeros(3, 32, 32))
    with pytest.raises(ConfigError, match=r"^kernels is"):
        LowFrequency(kernels=[[3, 65]]).check_images([0], lambda index: torch.zeros(3, 32, 32))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("norm", {"norm": "L2"}),
        ("eps", {"eps": 0.0}),
        ("steps", {"steps": 0}),
        ("step_size", {"step_size": 0.0}),
        ("filter_step_size", {"filter_step_size": 0.0}),
        ("kernels", {"kernels": [[4, 3]]}),
        ("kernels", {"kernels": [[3]]}),
        ("sigma_color", {"sigma_color": 0.0}),
        ("weight", {"weight": 0.0}),
        ("loss", {"loss": "mse"}),
    ],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        LowFrequency(**arguments)
