"""Image transforms without a network, that every purifier should beat: noise, blur, fewer bits, total variation."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from hetpure.errors import require
from hetpure.noise import Draws
from hetpure.purification.base import Purifier


class GaussianNoise(Purifier):
    """x + sigma eps, clamped: what noise does without a denoiser. Its vote is randomized smoothing (Cohen et al. 2019).

    Args:
        sigma: standard deviation, for images in [0, 1].
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        require(0.0 < sigma < math.inf, "sigma", sigma, "above 0, finite")
        self.sigma = sigma

    @property
    def smoothing_sigma(self) -> float:
        return self.sigma

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return (x + self.sigma * draws.normal_like(x, "noise", 0)).clamp(0.0, 1.0)


class GaussianBlur(Purifier):
    """Convolution with a Gaussian out to three sigma, reflected at the edges.

    Args:
        sigma: width of the Gaussian, in pixels.
    """

    stochastic: bool = False

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        require(0.0 < sigma < math.inf, "sigma", sigma, "above 0, finite")
        self.sigma, self.size = sigma, 2 * math.ceil(3.0 * sigma) + 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        most = min(x.shape[-2:])
        accepted = f"at most {(most - 1) // 3} for images of {most} pixels"
        require(self.size // 2 < most, "purifier.sigma", self.sigma, accepted)
        return gaussian_blur(x, [self.size, self.size], [self.sigma, self.sigma]).clamp(0.0, 1.0)


class BitDepth(Purifier):
    """Feature squeezing (Xu et al. 2018): round(x (2^bits - 1)) / (2^bits - 1).

    The derivative is zero wherever it exists: attack it by BPDA (``attack.gradient=bpda``).

    Args:
        bits: of a value, 1 to 8.
    """

    stochastic: bool = False
    differentiable: ClassVar[bool] = False

    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        require(1 <= bits <= 8, "bits", bits, "1 to 8")
        self.levels = 2**bits - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


class TotalVariation(Purifier):
    """argmin_u TV(u) + |u - x|^2 / (2 weight), channel by channel (Rudin et al. 1992), as Chambolle (2004) iterates.

    TV is isotropic, with differences forward and none across the edge. The gradient goes through all iterations.

    Args:
        weight: of the total variation, for images in [0, 1].
        iterations: of the dual projection, with its step of 1/8.
    """

    stochastic: bool = False

    def __init__(self, weight: float = 0.1, iterations: int = 50) -> None:
        super().__init__()
        require(0.0 < weight < math.inf, "weight", weight, "above 0, finite")
        require(iterations >= 1, "iterations", iterations, "1 or more")
        self.weight, self.iterations = weight, iterations

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        dual = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        for _ in range(self.iterations):
            slope = _gradient(_divergence(dual) - x / self.weight)
            dual = (dual + slope / 8.0) / (1.0 + torch.linalg.vector_norm(slope, dim=0) / 8.0)
        return (x - self.weight * _divergence(dual)).clamp(0.0, 1.0)


def _gradient(u: Tensor) -> Tensor:
    """Forward differences of u (N, C, H, W) down and to the right, (2, N, C, H, W); 0 at the last row and column."""
    down = functional.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    right = functional.pad(u[..., 1:] - u[..., :-1], (0, 1))
    return torch.stack((down, right))


def _divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of ``_gradient``."""
    down, right = p[0, ..., :-1, :], p[1, ..., :-1]
    first = functional.pad(down, (0, 0, 0, 1)) - functional.pad(down, (0, 0, 1, 0))
    return first + functional.pad(right, (0, 1)) - functional.pad(right, (1, 0))
