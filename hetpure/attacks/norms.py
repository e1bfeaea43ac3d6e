"""Threat models: which direction is steepest in a norm, and which images are allowed."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from hetpure.noise import Draws

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
    def noise(self, draws: Draws, x: Tensor) -> Tensor:
        """A random direction of norm 1, one for each image of x and row of draws."""

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """x_adv brought back to within eps of x and to [0, 1]."""


class Linf(Norm):
    """Every value may change by eps."""

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def noise(self, draws: Draws, x: Tensor) -> Tensor:
        # Uniform in the cube, its largest value brought to 1.
        cube = 2.0 * draws.uniform("start", 0, x.shape[1:], x.dtype) - 1.0
        return cube / self.size(cube).view(-1, *[1] * (x.ndim - 1))

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        return x_adv.clamp(x - eps, x + eps).clamp(0.0, 1.0)


class L2(Norm):
    """The perturbation's Euclidean length may be eps."""

    def size(self, delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        """See ``Norm``; a zero gradient gives no direction."""
        # Squares of a confident classifier's gradients underflow: scale the largest value to 1 first.
        largest = gradient.abs().flatten(1).amax(dim=1).view(-1, *[1] * (gradient.ndim - 1))
        scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
        return scaled / self._length(scaled)

    def noise(self, draws: Draws, x: Tensor) -> Tensor:
        return self.direction(draws.normal("start", 0, x.shape[1:], x.dtype))

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        delta = x_adv - x  # clamping to [0, 1] only shortens what is left: x lies in that box too
        return (x + delta * (eps / self._length(delta)).clamp_max(1.0)).clamp(0.0, 1.0)

    def _length(self, x: Tensor) -> Tensor:
        return self.size(x).clamp_min(torch.finfo(x.dtype).tiny).view(-1, *[1] * (x.ndim - 1))


NORMS: dict[str, Norm] = {"Linf": Linf(), "L2": L2()}
"""Norms by name."""
