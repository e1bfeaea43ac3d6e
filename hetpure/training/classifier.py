"""Cross-entropy training of a classifier on images in [0, 1]."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from hetpure.models.classifiers import Classifier
from hetpure.training.config import OptimizerConfig
from hetpure.training.module import TrainingModule


class ClassifierTrainer(TrainingModule):
    """Trains a classifier.

    Args:
        classifier: image (B, C, H, W) in [0, 1] to logits, its normalisation inside.
        num_classes: number of classes.
        optimizer: its name, learning rate and schedule.
        label_smoothing: share of the target spread over all classes.
        seed: of dropout and the like.
    """

    def __init__(
        self,
        classifier: Classifier,
        num_classes: int,
        optimizer: OptimizerConfig,
        *,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(optimizer, seed)
        self.classifier, self.num_classes, self.label_smoothing = classifier, num_classes, label_smoothing
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    @property
    def trained(self) -> nn.Module:
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seed_batch()
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(self(image).float(), batch["label"], label_smoothing=self.label_smoothing)
        self.log_step(loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["image"]).float()
        self.accuracy.update(logits, batch["label"])
        self.log("val/accuracy", self.accuracy, prog_bar=True)
        self.log("val/loss", cross_entropy(logits, batch["label"]), sync_dist=True, batch_size=len(logits))

    def export(
        self,
        folder: Path,
        architecture: str,
        arguments: Mapping[str, Any],
        input_size: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Writes ``model.safetensors`` (the bare network's state) and ``config.json``, for timm's ``local-dir:``.

        Args:
            folder: created where it is missing.
            architecture: name that builds the network.
            arguments: what it was built with.
            input_size: (C, H, W).
            dtype: of the weights on disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous().clone()
            for key, value in self.classifier.network.state_dict().items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        pretrained: dict[str, Any] = {"input_size": list(input_size), "num_classes": self.num_classes}
        for name in ("mean", "std"):
            pretrained[name] = [round(value, 6) for value in getattr(self.classifier, name).flatten().tolist()]
        config = {
            "architecture": architecture,
            "num_classes": self.num_classes,
            "model_args": {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans")},
            "pretrained_cfg": pretrained,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
