"""Attacks that make an image from parameters, such as a flow field, and optimise those with Adam."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.base import Attack, Threat
from hetpure.attacks.gradients import Gradient
from hetpure.attacks.losses import find_loss
from hetpure.attacks.search import Search
from hetpure.errors import require


class ImageParameters(ABC):
    """The parameters of one adversarial image, and their optimiser.

    Each image is made by itself, so that no kernel sees how many others there are.

    Args:
        groups: parameters and their learning rates; changed in place.
    """

    def __init__(self, groups: Sequence[tuple[Tensor, float]]) -> None:
        self.tensors = [tensor.requires_grad_() for tensor, _ in groups]
        self._adam = torch.optim.Adam([{"params": [tensor], "lr": rate} for tensor, rate in groups])

    @abstractmethod
    def image(self) -> Tensor:
        """The adversarial image (1, C, H, W), differentiable; in [0, 1] up to rounding."""

    @abstractmethod
    def penalty(self, image: Tensor) -> Tensor:
        """What is minimised beside the attacker's loss, a scalar."""

    def constrain(self) -> None:
        """Brings the parameters back to what is allowed, after a step."""
        return

    def adjust(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients that Adam gets, one for each tensor."""
        return gradients

    def step(self, value: Tensor) -> None:
        """One step up the attacker's loss, whose gradient at ``image`` is ``value`` (1, C, H, W): the chain rule."""
        with torch.enable_grad():
            image = self.image()
            descent = self.penalty(image) - (image * value).sum()
        gradients = self.adjust(torch.autograd.grad(descent, self.tensors))
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient
        self._adam.step()
        with torch.no_grad():
            self.constrain()


class ParameterAttack(Attack):
    """An attack with one ``ImageParameters`` an image, and a threat model of its own.

    Args:
        threat: the threat model.
        steps: iterations, of one gradient each.
        loss: what is maximised.
    """

    def __init__(self, threat: Threat, steps: int, loss: str) -> None:
        require(threat.eps > 0.0, "eps", threat.eps, "above 0")
        require(steps >= 1, "steps", steps, "1 or more")
        self.threat, self.steps, self.loss = threat, steps, loss
        self.classes = find_loss(loss).classes

    def images(self, parameters: Sequence[ImageParameters]) -> Tensor:
        """The adversarial images (B, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return torch.cat([each.image() for each in parameters]).clamp(0.0, 1.0)

    def iterates(self, search: Search, parameters: Sequence[ImageParameters]) -> Iterator[tuple[Tensor, Gradient]]:
        """All iterations, each after its step: the images before it, and what the attacker learned of them."""
        loss = find_loss(self.loss)
        for _ in range(self.steps):
            x_adv = self.images(parameters)
            found = search.ask(search.all, x_adv, loss)
            for each, value in zip(parameters, found.value.split(1), strict=True):
                each.step(value.contiguous())
            yield x_adv, found

    def more_steps(self, factor: int) -> dict[str, Any]:
        return {"steps": factor * self.steps}

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {"eps": eps}
