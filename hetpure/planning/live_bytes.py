"""Bytes that tensors need at once, counted: the same on a busy machine and an idle one."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages alive that were made while the mode is on, and their peak.

    Counted at every operation from the storages themselves, so it is exact on a CPU, where neither the allocator's
    statistics nor the process's resident size could tell; and unlike ``saved_tensors_hooks`` it sees the backward pass,
    where recomputation moves the memory to. A kernel's own scratch space and an allocator's waste are not in it.

    Attributes:
        live: now.
        peak: at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if not size or key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(compute: Callable[[], Any], device: torch.device) -> int:
    """The most that a computation needs at once, beyond what there was: CUDA's own count, elsewhere ``LiveBytes``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as counted:
        compute()
    return counted.peak
