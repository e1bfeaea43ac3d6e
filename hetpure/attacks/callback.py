"""An attack as a Lightning callback: every test batch is attacked before the defense sees it."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import Gradient, GradientSource


class AdversarialAttack(Callback):
    """Adds ``adversarial`` (like ``image``) and ``attack_loss`` (B, iterations) to each test batch.

    Args:
        attack: the attack.
        gradient: gradients through the attack process, which is moved to the module's device.
        observe: called after every iteration; see ``Attack``.
    """

    def __init__(self, attack: Attack, gradient: GradientSource, observe: Observer | None = None) -> None:
        self.attack, self.gradient, self.observe = attack, gradient, observe

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Brings the attack process to the device."""
        self.gradient.to(pl_module.device)

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks the batch in place."""
        losses = []

        def observe(iteration: int, found: Gradient) -> None:
            losses.append(found.loss)
            if self.observe is not None:
                self.observe(iteration, found)

        batch["adversarial"] = self.attack(self.gradient, batch["image"], batch["label"], batch["index"], observe)
        batch["attack_loss"] = torch.stack(losses, dim=1)
