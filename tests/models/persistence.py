"""Writes network pickles the way NVlabs' ``torch_utils.persistence`` does, without that code: see ``saved_network``."""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MODULE = "torch_utils.persistence"


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("the pickle's own function was called")


class Persistent(nn.Module):
    """Pickles as a call of the function above, with a class's name, source code and attributes as its argument."""

    def __init__(self, class_name: str, source: str, **attributes: Any) -> None:
        super().__init__()
        self.about = class_name, source
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple:
        class_name, source = self.about
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": self.__dict__}
        return (_reconstruct_persistent_obj, (meta,), None)


@contextmanager
def importable() -> Iterator[None]:
    """While it is open, pickle finds the function under the name that the original has."""
    module: Any = types.ModuleType(MODULE)
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    _reconstruct_persistent_obj.__module__ = MODULE
    sys.modules["torch_utils"], sys.modules[MODULE] = types.ModuleType("torch_utils"), module
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules[MODULE]


def save_network(
    file: Path, state: dict[str, Tensor], preconditioning: str, source: str = "raise SystemExit", **attributes: Any
) -> None:
    """A pickle like those of NVlabs/edm's training loop.

    Args:
        file: to write.
        state: weights by the names of their state dict.
        preconditioning: name of the outer class.
        source: what stands for the classes' source code.
        attributes: of the outer object.
    """

    def node(weights: dict[str, Tensor], class_name: str, **more: Any) -> nn.Module:
        made = Persistent(class_name, source, skip_scale=np.sqrt(0.5), **more)
        fill(made, weights)
        return made

    def fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
        for name in dict.fromkeys(key.split(".")[0] for key in weights):
            inside = {k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith(f"{name}.")}
            if not inside and name == "resample_filter":
                module.register_buffer(name, weights[name])
            elif not inside:
                module.register_parameter(name, nn.Parameter(weights[name], requires_grad=False))
            elif name in ("enc", "dec"):
                container = nn.ModuleDict()
                fill(container, inside)
                module.add_module(name, container)
            else:
                module.add_module(name, node(inside, "SongUNet" if name == "model" else "UNetBlock"))

    outer = node(state, preconditioning, label_dim=0, use_fp16=True, sigma_min=np.float64(0.0), **attributes)
    data = {
        "ema": outer,
        "loss_fn": Persistent("VPLoss", source),
        "augment_pipe": None,
        "dataset_kwargs": {"path": "x"},
    }
    with importable(), file.open("wb") as opened:
        pickle.dump(data, opened)


def storage_pickle(content: bytes) -> bytes:
    """A pickle whose tensor's storage is ``content``."""

    class Storage:
        def __reduce__(self) -> tuple:
            return (torch.storage._load_from_bytes, (content,))

    return pickle.dumps({"ema": Storage()})
