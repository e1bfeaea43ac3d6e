"""The order of training batches: one endless keyed stream that a run enters at its own step."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from hetpure.errors import ConfigError


class BatchStream(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), a pure function of the seed and the batch's number.

    The stream is a fresh permutation of the data per epoch, cut into batches, the last partial one dropped. Batch p is
    the same whether a run started at batch 0 or resumed at p, and the processes' batches of one p are disjoint. The
    stream's length is the whole run's, so Lightning sees one epoch and shows one bar for all of it.

    Args:
        size: number of samples.
        batch_size: per process.
        length: number of batches in the whole run; None for one epoch.
        start: gives the number of the first batch when iteration starts.
        seed: of the permutations.
        rank: of this process.
        world: number of processes.

    Raises:
        ConfigError: where there are too few samples for a batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        length: int | None = None,
        start: Callable[[], int] = lambda: 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.size, self.batch_size, self.start = size, batch_size, start
        self.seed, self.rank, self.world = seed, rank, world
        self.per_epoch = size // (batch_size * world)
        if self.per_epoch == 0:
            problem = f"on each of {world} processes, but there are only {size} training samples"
            raise ConfigError("data.batch_size", problem, found=batch_size)
        self.length = self.per_epoch if length is None else length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        together = self.batch_size * self.world
        for number in range(self.start(), self.length):
            if number // self.per_epoch != epoch:
                epoch = number // self.per_epoch
                order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
            first = number % self.per_epoch * together
            yield [(epoch, int(index)) for index in order[first : first + together][self.rank :: self.world]]
