"""What both trainings share: an optimiser with its schedule, and random draws that are keyed by the step."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from lightning import LightningModule
from torch import nn
from torch.optim import SGD, Adam, AdamW

from hetpure.training.config import OptimizerConfig

_SCHEDULERS = {"constant": "constant_with_warmup", "cosine": "cosine"}


class TrainingModule(LightningModule, ABC):
    """Base class of the two trainings; ``seed`` is that of all draws."""

    def __init__(self, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__()
        self.optimizer_config, self.seed = optimizer, seed
        self._step, self._micro_batch = -1, 0

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network whose weights are optimised."""

    def seed_batch(self) -> None:
        """Seeds torch's global generators for one training batch, so that a resumed run draws the same.

        The key is (seed, step, number of the batch within the step, rank). Dropout takes no generator, so the key goes
        into the global ones.
        """
        step = self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        key = (self.seed, "train", step, self._micro_batch, self.trainer.global_rank)
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)

    def log_step(self, loss: torch.Tensor) -> None:
        """Logs the loss and the learning rate."""
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        """The optimiser over the trained network, its learning rate set at every step."""
        config, parameters = self.optimizer_config, self.trained.parameters()
        if config.name == "sgd":
            optimizer = SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=True)
        else:
            cls = {"adam": Adam, "adamw": AdamW}[config.name]
            optimizer = cls(parameters, config.lr, weight_decay=config.weight_decay)
        name, steps = _SCHEDULERS[config.schedule], int(self.trainer.max_steps)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
