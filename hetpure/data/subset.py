"""Which samples a run sees: the paper's fixed random subset, and each process's share of it."""

from collections.abc import Collection, Sequence

import numpy as np

from hetpure.errors import ConfigError


def subset_indices(total: int, size: int | None, seed: int = 0, skip: int = 0) -> list[int]:
    """Positions of a random subset, drawn as DiffPure and the paper draw theirs.

    Args:
        total: number of samples in the split.
        size: number to draw; None for all of them, in order.
        seed: of ``numpy.random.RandomState``.
        skip: draws to pass over first: subsets of one seed that begin where another ends share no sample.

    Returns:
        ``RandomState(seed).choice(total, size, replace=False)``, in the order of the draw (after ``skip`` of it).

    Raises:
        ConfigError: where skip and size together are below 1 or above total.
    """
    if size is None:
        if skip:
            raise ConfigError(f"data.subset_skip: found {skip}, accepted is 0 where data.subset does not say how many")
        return list(range(total))
    if not 1 <= size <= total - skip:
        raise ConfigError(f"data.subset: found {size}, accepted is 1..{total - skip}, as many samples as there are")
    # numpy draws without replacement by cutting a permutation: a shorter draw is the beginning of a longer one.
    return np.random.RandomState(seed).choice(total, skip + size, replace=False)[skip:].tolist()


def shard(indices: Sequence[int], rank: int, world: int, exclude: Collection[int] = ()) -> list[int]:
    """One process's share: entries rank, rank + world, .. of what is left without ``exclude``.

    Shares differ in length by at most one: nothing is padded, no sample comes twice, none is lost. Every process must
    be given the same ``exclude``.
    """
    return [index for index in indices if index not in exclude][rank::world]
