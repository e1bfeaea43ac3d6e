"""Structural similarity (Wang et al. 2004), differentiable twice."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

_SIZE, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of each pair of images (N, C, H, W), (N,).

    Gaussian window of 11 with sigma 1.5, zero padding, constants as for images of range 1.
    """
    offsets = torch.arange(_SIZE, device=a.device, dtype=a.dtype) - _SIZE // 2
    window = (-(offsets**2) / (2 * _SIGMA**2)).exp()
    window = window / window.sum()
    kernel = (window[:, None] * window[None, :]).expand(a.shape[1], 1, _SIZE, _SIZE)

    def blurred(image: Tensor) -> Tensor:
        return conv2d(image, kernel, padding=_SIZE // 2, groups=a.shape[1])

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return (value / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).flatten(1).mean(1)
