"""Projected gradient descent (Madry et al. 2018) on whatever gradient it is given: with EOT gradients, PGD+EOT."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from hetpure.attacks.gradients import Gradient, GradientSource

Observer = Callable[[int, Gradient], None]


class PGD(ABC):
    """No random start; fixed step along the normalised mean gradient; projection onto the ball and onto [0, 1].

    Args:
        eps: radius of the ball, in units of images in [0, 1].
        steps: iterations.
        step_size: length of one step in the attack's norm.

    Raises:
        ValueError: for a negative radius, or no steps.
    """

    norm: ClassVar[str]

    def __init__(self, eps: float, steps: int, step_size: float = 0.007) -> None:
        if not eps >= 0.0:
            raise ValueError(f"eps = {eps} must not be negative")
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        if not step_size > 0.0:
            raise ValueError(f"step_size = {step_size} must be positive")
        self.eps, self.steps, self.step_size = eps, steps, step_size

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        """Adversarial images (B, C, H, W) in [0, 1], within eps of x.

        Args:
            gradient: the defense as the attacker sees it.
            x: clean images (B, C, H, W) in [0, 1].
            label: (B,) true classes.
            sample: (B,) dataset indices, which key the attacker's draws.
            observe: called after every iteration with its number and its gradient.
        """
        x_adv = x
        for iteration in range(self.steps):
            found = gradient(x_adv, label, sample, iteration)
            x_adv = self.project(x_adv + self.step_size * self.direction(found.value), x)
            if observe is not None:
                observe(iteration, found)
        return x_adv

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent direction of unit length in this norm."""

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest image in the ball around x and in [0, 1]."""


class LinfPGD(PGD):
    """Every pixel may change by eps."""

    norm: ClassVar[str] = "Linf"

    def direction(self, gradient: Tensor) -> Tensor:
        """See ``PGD``."""
        return gradient.sign()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """See ``PGD``."""
        return (x + (x_adv - x).clamp(-self.eps, self.eps)).clamp(0.0, 1.0)


class L2PGD(PGD):
    """The perturbation's Euclidean length is at most eps."""

    norm: ClassVar[str] = "L2"

    def direction(self, gradient: Tensor) -> Tensor:
        """See ``PGD``."""
        return gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """See ``PGD``. Clamping to [0, 1] only shortens what is left: x lies in that box too."""
        delta = x_adv - x
        scale = (self.eps / _length(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1.0)
        return (x + delta * scale).clamp(0.0, 1.0)


NORMS: dict[str, type[PGD]] = {attack.norm: attack for attack in (LinfPGD, L2PGD)}
"""PGD by the name of its norm."""


def _length(x: Tensor) -> Tensor:
    """Euclidean length of each row, (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.ndim - 1))
