"""Out of memory: halve the chunk and go on."""

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from hetpure.errors import RunError

if TYPE_CHECKING:
    from hetpure.defense.classifier import PurifiedClassifier

Result = TypeVar("Result")

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's own type, the CPU allocator's message, a library's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_smaller_chunks(
    compute: Callable[[], Result], processes: "Sequence[PurifiedClassifier]", notify: Callable[[str], None] = print
) -> Result:
    """Computes something, again from its start with half the ``chunk_size`` whenever memory runs out.

    Draws are keyed, so a computation that starts again is the same but for rounding, which depends on the chunk size.
    The smaller chunks stay; ``notify`` is called with a line of text each time. Raises RunError where chunks of one row
    do not fit.
    """
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not processes or not is_out_of_memory(error):
                raise
            reason = str(error).split(". ")[0].splitlines()[0][:160] if str(error) else "no further details"
        # Only here, where the error with all tensors of its frames is gone, can memory be freed.
        size = max(process.chunk_size for process in processes)
        if size == 1:
            raise RunError(f"chunk_size: out of memory with one row in a network call ({reason})")
        for process in processes:
            process.chunk_size = max(1, min(process.chunk_size, size // 2))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        notify(f"out of memory ({reason}): the batch starts again with chunks of {size // 2} instead of {size} rows")
