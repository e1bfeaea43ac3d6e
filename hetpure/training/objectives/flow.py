"""Conditional flow matching from perturbed to clean images: FlowPure (Collaert et al. 2025)."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hetpure.errors import require
from hetpure.models.classifiers import Classifier
from hetpure.models.diffusers_folder import LABELS, save_flow
from hetpure.models.flow import FlowField
from hetpure.noise import Draws
from hetpure.purification.base import Purifier
from hetpure.purification.flowpure import FlowPurifier
from hetpure.training.objectives.adversary import check_ascent, sign_ascent
from hetpure.training.objectives.base import Batch, Objective, predict, scaled

Uniform = Callable[[str, tuple[int, ...]], Tensor]
"""``uniform(purpose, shape)``: numbers on (0, 1), (B, *shape)."""


class _Flow(Objective):
    """A network that predicts the velocity of straight lines from perturbed images x(0) to clean images x(1).

    At time s in [0, 1], x(s) = s x(1) + (1 - s) x(0) moves at x(1) - x(0). As in diffusers, the network has the label
    1000 (1 - s) and predicts the velocity back, x(0) - x(1); the loss is its mean squared error.
    """

    sigma: float = 0.0

    def __init__(self) -> None:
        self.labels = LABELS

    @abstractmethod
    def perturbed(self, batch: Batch, normal: Callable[[], Tensor], uniform: Uniform) -> Tensor:
        """The images (B, C, H, W) at which the lines begin, for images in [0, 1]; not clamped."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        image = batch["image"]
        t = torch.rand(len(image), device=image.device) * LABELS

        def uniform(purpose: str, shape: tuple[int, ...]) -> Tensor:
            return torch.rand((len(image), *shape), device=image.device)

        return self._squares(network, batch, t, self.perturbed(batch, lambda: torch.randn_like(image), uniform)).mean()

    def errors(self, network: nn.Module, batch: Batch, t: Tensor, draws: Draws, step: int) -> Tensor:
        def normal() -> Tensor:
            return draws.normal_like(batch["image"], "noise", step)

        def uniform(purpose: str, shape: tuple[int, ...]) -> Tensor:
            return draws.uniform(purpose, step, shape)

        return self._squares(network, batch, t.float(), self.perturbed(batch, normal, uniform)).flatten(1).mean(1)

    def purifier(self, unet: UNet2DModel, t: int, steps: int) -> Purifier:
        return FlowPurifier(FlowField(unet), self.sigma, 1 - t / LABELS, t * steps // LABELS)

    def one_step(self, purifier: Purifier, image: Tensor, t: int, draws: Draws) -> Tensor:
        flow = cast(FlowPurifier, purifier)
        return FlowPurifier(flow.network, self.sigma, 1 - t / LABELS, 1)(image, draws)

    def save(self, unet: UNet2DModel, folder: str | Path) -> None:
        save_flow(unet, folder)

    @staticmethod
    def _squares(network: nn.Module, batch: Batch, t: Tensor, perturbed: Tensor) -> Tensor:
        clean, start, share = scaled(batch["image"]), scaled(perturbed), t.view(-1, 1, 1, 1) / LABELS
        predicted = predict(network, clean + share * (start - clean), t)
        return mse_loss(predicted, start - clean, reduction="none")


class GaussianFlow(_Flow):
    """Lines from images with Gaussian noise.

    Args:
        sigma: standard deviation of the noise, for images in [0, 1].
    """

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        require(0.0 < sigma < 10.0, "sigma", sigma, "above 0 and below 10, for images in [0, 1]")
        self.sigma = sigma

    def perturbed(self, batch: Batch, normal: Callable[[], Tensor], uniform: Uniform) -> Tensor:
        return batch["image"] + self.sigma * normal()


class PGDFlow(_Flow):
    """Lines from adversarial images that PGD finds for the bare classifier, each in a ball of its own radius.

    Args:
        classifier: what is attacked.
        eps: the radius of each image is uniform on (0, eps), for images in [0, 1].
        step_size: of a PGD step.
        pgd_steps: from a uniformly random start; each is a call of the classifier, with its gradient.
    """

    def __init__(
        self, classifier: Classifier, eps: float = 0.05, step_size: float = 2 / 255, pgd_steps: int = 10
    ) -> None:
        super().__init__()
        check_ascent(eps, step_size, pgd_steps)
        self.classifier, self.eps, self.step_size, self.pgd_steps = classifier, eps, step_size, pgd_steps

    def perturbed(self, batch: Batch, normal: Callable[[], Tensor], uniform: Uniform) -> Tensor:
        image, classifier = batch["image"], self.classifier.to(batch["image"].device)
        eps = self.eps * uniform("radius", (1, 1, 1))
        offset = 2 * uniform("offset", tuple(image.shape[1:])) - 1
        return sign_ascent(classifier, image, batch["label"], offset, eps, self.step_size, self.pgd_steps)
