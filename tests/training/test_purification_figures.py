from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.schedule import CLEAN
from hetpure.training.fit import fit
from hetpure.training.purification_figures import PurificationFigures
from tests.training.test_diffusion import new_module


class Oracle(nn.Module):
    """Knows the clean image: what it predicts as noise leads straight back to it."""

    def __init__(self, x0: Tensor, module: Any):
        super().__init__()
        self.x0, self.schedule = x0, module.noise_schedule

    def forward(self, x: Tensor, t: int) -> Tensor:
        abar = torch.tensor(self.schedule.alpha_bar(t))
        return (x - abar.sqrt() * self.x0) / (1 - abar).sqrt()


def measure(figures: PurificationFigures, image: Tensor, denoiser: nn.Module | None = None) -> dict[str, float]:
    """The figures of one batch, with another denoiser in the purifiers' place."""
    module = new_module()
    trainer: Any = type("Trainer", (), {"global_rank": 0, "world_size": 1})()
    for purifier in figures.purifiers.values():
        purifier.denoiser = denoiser or purifier.denoiser
    figures.on_validation_epoch_start(trainer, module)
    batch = {"image": image, "label": torch.zeros(len(image), dtype=torch.long), "index": torch.arange(len(image))}
    figures.on_validation_batch_end(trainer, module, None, batch, 0)
    return {name: float(mean.compute()) for name, mean in figures._means.items()}


def test_a_perfect_denoiser_gives_the_image_back():
    image = torch.rand(3, 1, 8, 8)
    found = measure(PurificationFigures(new_module(), [50, 400], 20, 3), image, Oracle(image * 2 - 1, new_module()))
    assert set(found) == {f"psnr_{way}_t{t}" for way in ("one_step", "ddim") for t in ("050", "400")}
    assert min(found.values()) > 80.0


def test_predicting_no_noise_leaves_what_the_closed_form_says():
    class Nothing(nn.Module):
        schedule = new_module().noise_schedule

        def forward(self, x: Tensor, t: int) -> Tensor:
            return torch.zeros_like(x)

    figures, image = PurificationFigures(new_module(), [100], 20, 256), torch.full((256, 1, 8, 8), 0.5)
    found = measure(figures, image, Nothing())
    # x(t) / sqrt(abar) is x(0) with noise of variance (1 - abar) / abar, halved in [0, 1]. Few are clamped.
    abar = new_module().noise_schedule.alpha_bar(100)
    expected = -10 * torch.log10(torch.tensor((1 - abar) / abar / 4)).item()
    assert found["psnr_one_step_t100"] == pytest.approx(expected, abs=0.2)
    assert found["psnr_ddim_t100"] == pytest.approx(expected, abs=0.2)
    assert figures.purifiers[100].grids == [[100, 50, 0, CLEAN]]


def test_only_as_many_images_as_asked_for():
    class First(nn.Module):
        """Calls the first two images right."""

        def forward(self, x: Tensor) -> Tensor:
            wrong = torch.arange(len(x)) >= 2
            return torch.stack([(~wrong).float(), wrong.float()], dim=1)

    classifier = Classifier(First(), [0.0], [1.0])
    found = measure(PurificationFigures(new_module(), [50], 20, 3, classifier), torch.rand(8, 1, 8, 8))
    assert found["clean_accuracy"] == found["purified_accuracy_t050"] == pytest.approx(2 / 3)


def test_they_are_logged_with_the_validation(tmp_path):
    module, data = new_module(), ImageDataModule("digits", subset=8, batch_size=16)
    trainer = {"max_steps": 2, "val_check_interval": 2, "accelerator": "cpu", "enable_progress_bar": False}
    figures = PurificationFigures(module, [50], 20, 5)
    metrics = fit(module, data, tmp_path, trainer=trainer, save_every=9, callbacks=[figures])
    assert {"figures/psnr_one_step_t050", "figures/psnr_ddim_t050"} <= set(metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": [30]}, "levels is 30; accepted: the grid's timesteps below 1000: multiples of 50"),
        ({"levels": [1000]}, "levels is 1000; "),
        ({"steps": 7}, "steps is 7; accepted: divisors of 1000"),
        ({"images": 0}, "images is 0; accepted: 1 or more"),
    ],
)
def test_values_out_of_range(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        PurificationFigures(new_module(), **{"levels": [50], "steps": 20, "images": 4, **change})
