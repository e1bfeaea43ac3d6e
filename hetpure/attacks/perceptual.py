"""LPIPS (Zhang et al. 2018), a distance between images as a trained network sees them."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hetpure.errors import AbsentError, require

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of two images (1, C, H, W) in [0, 1], a scalar, differentiable."""

SMALLEST = 16
"""Pixels that the network needs on each side."""


def check_lpips(shape: tuple[int, int, int]) -> None:
    """Checks that LPIPS can be had for images of (C, H, W); nothing is loaded or downloaded.

    Raises:
        AbsentError: where the network's weights are not here.
        ConfigError: for images that the network does not take.
    """
    accepted = f"LPIPS needs images of 1 or 3 channels and at least {SMALLEST} x {SMALLEST} pixels"
    require(shape[0] in (1, 3) and min(shape[1:]) >= SMALLEST, "norm", "LPIPS", f"{accepted}; the data have {shape}")
    if not (file := _weights()).is_file():
        get = "get them with python -c \"import torchvision; torchvision.models.vgg16(weights='DEFAULT')\""
        raise AbsentError("norm", f"needs the weights of VGG-16, and {file} does not exist; {get}", found="LPIPS")


@functools.cache
def load_lpips(device: torch.device) -> Distance:
    """LPIPS of torchmetrics, with the features of VGG-16; gray images count as colour images."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity("vgg").net.to(device)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = (image.expand(-1, 3, -1, -1).float() for image in (a, b))
        return network(a, b, normalize=True).sum()

    return distance


def _weights() -> Path:
    from torchvision.models import VGG16_Weights

    return Path(torch.hub.get_dir(), "checkpoints", VGG16_Weights.DEFAULT.url.rpartition("/")[2])
