"""Base class of all objectives, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from hetpure.arguments import KeepsArguments
from hetpure.noise import Draws
from hetpure.purification.base import Purifier

Batch = Mapping[str, Tensor]
"""``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` (B,) int64."""


class Objective(KeepsArguments, ABC):
    """The loss by which a ``UNet2DModel`` F(x; t) is trained, and what belongs to it.

    Images x are scaled to [-1, 1]; t is a label in 0..T-1, clean images at its low end. Constructor arguments are the
    keys of the config's section ``objective``, but for those that the program supplies (``registry.SUPPLIED``). They
    raise ``ConfigError``, whose key is the argument, for values that they do not accept.

    Attributes:
        generates: whether new images can be sampled by DDIM from pure noise.
        takes_classes: whether the network may have classes.
        labels: how many labels are trained, from 0.
    """

    generates: ClassVar[bool] = False
    takes_classes: ClassVar[bool] = False
    labels: int

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a training batch.

        Draws come from torch's global generators, which are seeded for each batch: so a resumed run draws the same.

        Args:
            network: F, in training mode; called through ``predict``.
            batch: see ``Batch``.
        """

    @abstractmethod
    def errors(self, network: nn.Module, batch: Batch, t: Tensor, draws: Draws, step: int) -> Tensor:
        """The squared error of each image (B,) at labels t (B,) int64, for validation.

        All draws are those of ``draws`` at ``step``.
        """

    @abstractmethod
    def purifier(self, unet: UNet2DModel, t: int, steps: int) -> Purifier:
        """What purifies from label t with such a network, in the fewest steps of 1 / ``steps`` of all labels."""

    @abstractmethod
    def one_step(self, purifier: Purifier, image: Tensor, t: int, draws: Draws) -> Tensor:
        """The image (B, C, H, W) in [0, 1] that the network of ``purifier`` predicts from label t in one step."""

    @abstractmethod
    def save(self, unet: UNet2DModel, folder: str | Path) -> None:
        """Writes the network as a diffusers folder whose scheduler's config says what it predicts."""


def predict(network: nn.Module, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
    """What a UNet predicts of x (B, C, H, W) at labels t (B,), in float32; one with classes is told them, (B,)."""
    x = x.contiguous(memory_format=torch.channels_last)
    return network(x, t, class_labels=classes, return_dict=False)[0].float()


def null_class(network: Any) -> int | None:
    """Of a UNet with classes, the last, which stands for any; None for others."""
    embeds = network.config.num_class_embeds
    return None if embeds is None else embeds - 1


def scaled(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1
