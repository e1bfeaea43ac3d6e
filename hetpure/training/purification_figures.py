"""How well a denoiser purifies, measured while it trains."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio

from hetpure.errors import require
from hetpure.models.classifiers import Classifier
from hetpure.noise import Draws
from hetpure.training.diffusion import DiffusionTrainer


class PurificationFigures(Callback):
    """At every validation: how much of a clean image survives noise at t and the way back.

    For each t it logs ``figures/psnr_one_step_t`` and ``figures/psnr_ddim_t``, the mean peak signal-to-noise ratio (dB)
    of the image estimated from x(t) in one step (eq. 4's x0 prediction) and by the objective's purifier (DDIM over the
    grid); and, with a classifier, ``figures/purified_accuracy_t``, its accuracy on those images, and
    ``figures/clean_accuracy``. The averaged weights are measured, in float32; each image has the same noise every time.

    Args:
        module: whose averaged weights.
        levels: timesteps t, within 1..T-1.
        steps: grid points of the whole range, as in ``UniformPurifier``.
        images: number of validation images, over all processes together.
        classifier: the classifier that purification is to protect.
        seed: of the noise.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        module: DiffusionTrainer,
        levels: Sequence[int],
        steps: int,
        images: int,
        classifier: Classifier | None = None,
        seed: int = 0,
    ):
        T = module.noise_schedule.T
        require(images >= 1, "images", images, "1 or more")
        require(steps >= 1 and T % steps == 0, "steps", steps, f"divisors of {T}")
        for t in levels:
            on_grid = 0 < t < T and t % (T // steps) == 0
            require(on_grid, "levels", t, f"the grid's timesteps below {T}: multiples of {T // steps}", "steps")
            most = min(module.objective.labels, T) - 1
            require(t <= most, "levels", t, f"up to {most}, what is trained")
        self.objective, unet = module.objective, cast(Any, module.ema.module)
        self.purifiers = {t: module.objective.purifier(unet, t, steps) for t in levels}
        self.images, self.classifier, self.seed = images, classifier, seed
        self._means: dict[str, MeanMetric] = {}
        self._left = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._means = {}
        self._left = len(range(trainer.global_rank, self.images, trainer.world_size))
        if self.classifier is not None:
            self.classifier.to(pl_module.device)

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        image, label, index = (batch[key][: self._left] for key in ("image", "label", "index"))
        self._left -= len(image)
        if not len(image):
            return
        draws = Draws(self.seed, "figures", index, torch.zeros_like(index))
        with torch.autocast(image.device.type, enabled=False):
            if self.classifier is not None:
                self._update("clean_accuracy", self.classifier(image).argmax(1) == label)
            for t, purifier in self.purifiers.items():
                self._update(
                    f"psnr_one_step_t{t:03d}", _psnr(self.objective.one_step(purifier, image, t, draws), image)
                )
                purified = purifier(image, draws)
                self._update(f"psnr_ddim_t{t:03d}", _psnr(purified, image))
                if self.classifier is not None:
                    self._update(f"purified_accuracy_t{t:03d}", self.classifier(purified).argmax(1) == label)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, mean in self._means.items():
            pl_module.log(f"figures/{name}", mean.compute())

    def _update(self, name: str, values: Tensor) -> None:
        if name not in self._means:
            self._means[name] = MeanMetric().to(values.device)
        self._means[name].update(values.float())


def _psnr(restored: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, (B,), in dB."""
    return peak_signal_noise_ratio(restored, image, data_range=1.0, reduction="none", dim=(1, 2, 3))
