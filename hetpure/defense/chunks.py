"""Network calls in chunks of one fixed shape.

Kernels round differently at different batch shapes, and an attack's sign step turns a rounding difference into a whole
pixel step. So networks always see ``size`` rows, the last chunk padded: a row's result then does not depend on how many
other rows there are, or which.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def chunk_indices(count: int, size: int, device: torch.device | None = None) -> Iterator[tuple[Tensor, int]]:
    """Row numbers of each chunk, always ``size`` of them, and how many are real: the rest repeat its first row."""
    for start in range(0, count, size):
        real = min(size, count - start)
        index = torch.full((size,), start, dtype=torch.long, device=device)
        index[:real] = torch.arange(start, start + real, device=device)
        yield index, real
