"""Which samples a run sees: the paper's fixed random subset, and each process's share of it."""

from collections.abc import Collection, Sequence

import numpy as np

from hetpure.errors import ConfigError


def subset_indices(total: int, size: int | None, seed: int = 0) -> list[int]:
    """Positions of a random subset, drawn as DiffPure and the paper draw theirs.

    Args:
        total: number of samples in the split.
        size: number to draw; None for all of them, in order.
        seed: of ``numpy.random.RandomState``.

    Returns:
        ``RandomState(seed).choice(total, size, replace=False)``, in the order of the draw.

    Raises:
        ConfigError: where size is below 1 or above total.
    """
    if size is None:
        return list(range(total))
    if not 1 <= size <= total:
        raise ConfigError(f"data.subset: found {size}, accepted is 1..{total}, as many samples as the split has")
    return np.random.RandomState(seed).choice(total, size, replace=False).tolist()


def shard(indices: Sequence[int], rank: int, world: int, exclude: Collection[int] = ()) -> list[int]:
    """One process's share: entries rank, rank + world, .. of what is left without ``exclude``.

    Shares differ in length by at most one: nothing is padded, no sample comes twice, none is lost. Every process must
    be given the same ``exclude``.
    """
    return [index for index in indices if index not in exclude][rank::world]
