"""Which samples a run sees: the paper's fixed random subset."""

from collections.abc import Sequence

import numpy as np

from hetpure.errors import ConfigError, require


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
        ConfigError: about ``subset`` or ``subset_skip``, where together they are below 1 or above total.
    """
    if size is None:
        require(not skip, "subset_skip", skip, "0 where subset is not set", "subset")
        return list(range(total))
    if not 1 <= size <= total - skip:
        left = f"{total - skip} samples{f' after subset_skip of {skip}' if skip else ''}"
        problem = f"but the test split has only {left}" if size > 0 else ""
        raise ConfigError("subset", problem, found=size, accepted=f"1..{total - skip}", related=("subset_skip",))
    # numpy draws without replacement by cutting a permutation: a shorter draw is the beginning of a longer one.
    return np.random.RandomState(seed).choice(total, skip + size, replace=False)[skip:].tolist()


def part_of_draw(drawn: Sequence[int], size: int | None, seed: int = 0, skip: int = 0) -> list[int]:
    """``subset_indices`` of a split of which only the beginning of the draw with seed 0 is there.

    Args:
        drawn: that beginning; taken whole where ``size`` is None.
        size: number of samples.
        seed: must be 0.
        skip: draws to pass over first.

    Raises:
        ConfigError: as ``subset_indices``, and about ``subset_seed``.
    """
    require(seed == 0, "subset_seed", seed, "0: the images that come with the package are of that draw", "subset")
    subset_indices(len(drawn), size, skip=skip)  # for its errors
    return list(drawn)[skip : None if size is None else skip + size]
