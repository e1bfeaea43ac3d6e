"""Bytes that tensors need at once, counted: the same on a busy machine and on an idle one."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live storages that are made within the context: ``live`` now, ``peak`` at most.

    It is exact on a CPU, whose allocator has no statistics, and sees the backward pass, where recomputation needs its
    memory. A kernel's scratch space is not in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in (tensor.untyped_storage() for tensor in tree_iter(out) if isinstance(tensor, Tensor)):
            key, size = storage.data_ptr(), storage.nbytes()
            if size and key not in self._known:
                self._known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, key, size)
        return out

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """The most that a computation needs at once, beyond what there was."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as counted:
        compute()
    return counted.peak
