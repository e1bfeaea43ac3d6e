"""Cross-entropy training of a classifier on images in [0, 1]."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from hetpure.models.classifiers import Classifier
from hetpure.training.keyed import StepCounter, seed_step
from hetpure.training.optimizers import build_optimizer, check, with_schedule


class ClassifierTrainer(LightningModule):
    """Trains a classifier.

    Args:
        classifier: image (B, C, H, W) in [0, 1] to logits, its normalisation inside.
        num_classes: number of classes.
        optimizer: ``sgd`` (Nesterov), ``adam`` or ``adamw``.
        lr: highest learning rate.
        momentum: of sgd.
        weight_decay: of the optimiser.
        lr_schedule: ``cosine`` or ``constant``.
        warmup_steps: of the learning rate.
        label_smoothing: share of the target spread over all classes.
        seed: of dropout and the like.
    """

    def __init__(
        self,
        classifier: Classifier,
        num_classes: int,
        *,
        optimizer: str = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        lr_schedule: str = "cosine",
        warmup_steps: int = 0,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        check(optimizer, lr_schedule)
        self.classifier, self.num_classes = classifier, num_classes
        self.optimizer, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.lr_schedule, self.warmup_steps = lr_schedule, warmup_steps
        self.label_smoothing, self.seed = label_smoothing, seed
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self._micro_batch = StepCounter()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W) in [0, 1]."""
        return self.classifier(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        step = self.trainer.global_step
        seed_step(self.seed, step, self._micro_batch(step), self.trainer.global_rank)
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(self(image).float(), batch["label"], label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accuracy and loss."""
        logits = self(batch["image"]).float()
        self.accuracy.update(logits, batch["label"])
        self.log("val/accuracy", self.accuracy, prog_bar=True)
        self.log("val/loss", cross_entropy(logits, batch["label"]), sync_dist=True, batch_size=len(logits))

    def configure_optimizers(self) -> Any:
        """The optimiser with its schedule."""
        optimizer = build_optimizer(
            self.classifier.parameters(), self.optimizer, self.lr, self.weight_decay, self.momentum
        )
        return with_schedule(optimizer, self.lr_schedule, self.warmup_steps, self.trainer.max_steps)

    def export(
        self,
        folder: str | Path,
        architecture: str,
        arguments: Mapping[str, Any],
        input_size: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Writes ``model.safetensors`` (the bare network's state) and ``config.json``, for timm's ``local-dir:``.

        Args:
            folder: made where it is missing.
            architecture: name that builds the network.
            arguments: what it was built with.
            input_size: (C, H, W).
            dtype: of the weights on disk.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous().clone()
            for key, value in self.classifier.network.state_dict().items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        mean, std = self.classifier.mean.flatten().tolist(), self.classifier.std.flatten().tolist()
        config = {
            "architecture": architecture,
            "num_classes": self.num_classes,
            "model_args": {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans")},
            "pretrained_cfg": {
                "input_size": list(input_size),
                "num_classes": self.num_classes,
                "mean": [round(value, 6) for value in mean],
                "std": [round(value, 6) for value in std],
            },
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
