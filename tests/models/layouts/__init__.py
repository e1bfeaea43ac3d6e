"""Public checkpoint layouts as names and shapes, and what the original networks computed on weights made from names.

Each ``*.json`` was written once beside the original project: ``shapes`` of a small network's state dict, and
``outputs``, some numbers of its output on ``images`` with the weights of ``weights``. Nothing else of those projects is
kept here.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
SAMPLES = 12


def layout(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text())


def weights(shapes: dict[str, list[int]], salt: str = "") -> dict[str, Tensor]:
    """Every weight random by its name, none zero, activations of about one."""
    made = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32((salt + name).encode()))
        values = random.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(0)
            continue
        if name.endswith("resample_filter"):
            values = np.full(shape, 0.25)
        elif name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = values / math.sqrt(math.prod(shape[1:]))
        else:
            values = 0.2 * values + name.endswith("weight")
        made[name] = torch.tensor(values, dtype=torch.float32)
    return made


def images(*shape: int) -> Tensor:
    return torch.tensor(np.random.RandomState(1).standard_normal(shape), dtype=torch.float32)


def samples(x: Tensor) -> list[float]:
    """A few values spread over a tensor, then its mean and root mean square."""
    flat = x.detach().double().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, SAMPLES).long()]
    return [*picked.tolist(), float(flat.mean()), float(flat.square().mean().sqrt())]
