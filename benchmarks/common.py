"""What the benchmarks share: networks of the lab's size, images, ratios of times."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.models.classifiers import Classifier, build_network
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser, build_denoiser
from hetpure.purification.heterogeneous import HeterogeneousPurifier


def build_parser(docstring: str | None) -> argparse.ArgumentParser:
    """A command line that is explained by a module's docstring."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)


def lab_sized_denoiser() -> Denoiser:
    """A 32x32 UNet of about a million parameters with random weights, whose values do not change its cost."""
    unet: Any = UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return DiffusersDenoiser(unet)


def build_networks(path: str | None, batch: int) -> tuple[Denoiser, Classifier, Tensor]:
    """A denoiser (random where no path is given), a random ResNet-20 and random images (batch, C, H, W)."""
    torch.manual_seed(0)
    denoiser = build_denoiser(path) if path else lab_sized_denoiser()
    network = build_network("cifar_resnet20", arguments={"num_classes": 10, "in_chans": denoiser.channels})
    classifier = Classifier(network, (0.5,), (0.25,)).eval().requires_grad_(False)
    size = denoiser.image_size or 32
    return denoiser, classifier, torch.rand(batch, denoiser.channels, size, size)


def heterogeneous(denoiser: Denoiser, classifier: Classifier, grid_size: int) -> HeterogeneousPurifier:
    """The heterogeneous purifier at t_large 0.2 and t_small 0.1: a fifth of ``grid_size`` network calls."""
    return HeterogeneousPurifier(denoiser, classifier, 0.2, 0.1, grid_size)


def bare_network(denoiser: Denoiser) -> Callable[[Tensor, int], Tensor]:
    """The network itself, without what this project puts around it."""
    if isinstance(denoiser, DiffusersDenoiser):
        unet: Any = denoiser.unet
        return lambda x, t: unet(x, t).sample
    return denoiser


def time_ratio(ours: Callable[[], Any], bare: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median ratio of times, and the median of ours in seconds. The two alternate, so that both meet the same load."""
    ours()
    bare()
    ratios, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        ours()
        seconds.append(time.perf_counter() - middle)
        ratios.append(seconds[-1] / (middle - start))
    return statistics.median(ratios), statistics.median(seconds)


def load_subset(data: ImageDataModule) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, C, H, W), labels (N,) and indices (N,) of prepared data's subset."""
    items = [item(data.test_source, index) for index in data.indices]
    label, index = (torch.tensor([int(one[key]) for one in items]) for key in ("label", "index"))
    return torch.stack([one["image"] for one in items]), label, index
