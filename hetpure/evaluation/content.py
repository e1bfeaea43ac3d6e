"""Short hashes of images and weights: a run belongs to their content, not to the paths of their files."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hetpure.attacks.registry import ATTACKS, GRADIENTS
from hetpure.config.moved import PATHS
from hetpure.config.plugins import code_hash, is_target
from hetpure.purification.registry import PURIFIERS

PLACES = (*PATHS, *(f"rows.*.{key}" for key in PATHS))
"""The same, of the whole config and of its rows."""

FREE = (
    "pictures", "data.batch_size", "data.check", "honesty.images", "certify.radii", "table", "grid", "hang_minutes",
    *PLACES,
)  # fmt: skip
"""Keys that may differ when an evaluation goes on (``grid``: its combinations are rows, independent of each other)."""


def network_content(network: nn.Module) -> str:
    """A hash of a network's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def code_content(purifier: Mapping[str, Any], attack: Mapping[str, Any], *others: str | None) -> dict[str, str]:
    """Hashes of the code from outside this package that a row's completed settings name, by its target.

    Args:
        purifier: the row's section.
        attack: likewise.
        *others: further names, such as the classifier's.
    """
    targets = [name for name in (*others, attack.get("loss")) if name is not None and is_target(name)]
    targets += PURIFIERS.outside(purifier["name"])
    targets += PURIFIERS.outside(attack.get("process", {}).get("name", purifier["name"]))
    if attack["name"] != "none":
        targets += ATTACKS.outside(attack["name"]) + GRADIENTS.outside(attack["gradient"]["name"])
    return {target: code_hash(target) for target in sorted(set(targets))}
