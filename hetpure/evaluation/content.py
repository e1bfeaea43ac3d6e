"""Short hashes of images and weights: a run belongs to their content, not to the paths of their files."""

import hashlib

import torch
from torch import nn

from hetpure.config.moved import PATHS
from hetpure.data.datamodule import ImageDataModule

IMAGES = 16
"""Images that are hashed."""

PLACES = (*PATHS, *(f"rows.*.{key}" for key in PATHS))
"""The same, of the whole config and of its rows."""


def data_content(data: ImageDataModule) -> str:
    """A hash of the test split's labels, of the subset, and of its first images."""
    digest = hashlib.blake2b(digest_size=8)
    source = data.test_source
    digest.update(torch.as_tensor(list(source.labels), dtype=torch.long).numpy().tobytes())
    digest.update(torch.tensor(data.indices).numpy().tobytes())
    for index in data.indices[:IMAGES]:
        digest.update(source.image(index).contiguous().numpy().tobytes())
    return digest.hexdigest()


def network_content(network: nn.Module) -> str:
    """A hash of a network's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
