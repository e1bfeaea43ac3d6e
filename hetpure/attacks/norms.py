"""Threat models: which direction is steepest in a norm, and which images are allowed."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

NormName = Literal["Linf", "L2"]


class Norm(ABC):
    """A norm on images (B, C, H, W), each image by itself."""

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """The norm of each image's perturbation, (B,)."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent direction of norm 1."""

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """The image within eps of x, and within [0, 1], that x_adv is brought back to."""


class Linf(Norm):
    """Every value may change by eps."""

    def size(self, delta: Tensor) -> Tensor:
        """See ``Norm``."""
        return delta.abs().flatten(1).amax(dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        """See ``Norm``."""
        return gradient.sign()

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """See ``Norm``."""
        return (x + (x_adv - x).clamp(-eps, eps)).clamp(0.0, 1.0)


class L2(Norm):
    """The perturbation's Euclidean length may be eps."""

    def size(self, delta: Tensor) -> Tensor:
        """See ``Norm``."""
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        """See ``Norm``; a zero gradient gives no direction."""
        # Squares of a confident classifier's gradients underflow: scale the largest value to 1 first.
        largest = gradient.abs().flatten(1).amax(dim=1).view(-1, *[1] * (gradient.ndim - 1))
        scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
        return scaled / self._length(scaled)

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """See ``Norm``. Clamping to [0, 1] only shortens what is left: x lies in that box too."""
        delta = x_adv - x
        return (x + delta * (eps / self._length(delta)).clamp_max(1.0)).clamp(0.0, 1.0)

    def _length(self, x: Tensor) -> Tensor:
        return self.size(x).clamp_min(torch.finfo(x.dtype).tiny).view(-1, *[1] * (x.ndim - 1))


NORMS: dict[str, Norm] = {"Linf": Linf(), "L2": L2()}
"""Norms by name."""
