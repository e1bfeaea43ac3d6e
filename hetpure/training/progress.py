"""The bar of a training run."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class StepBar(RichProgressBar):
    """Steps done of all steps, time left and current figures; epochs mean nothing here."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training".ljust(len(self.validation_description))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged figures, without the logger's version."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
