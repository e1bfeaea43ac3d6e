"""Which process evaluates which sample: the one that locks it first.

Every sample of a row is a byte of a file, locked while a process is at work on it. However a process ends, its locks
are freed, and others take its unfinished samples. So nothing has to be agreed on: a process may come late or not at
all, and a run may go on with another number of processes.

Locks may not reach other machines, so each machine has a fixed part of the samples.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from hetpure.errors import RunError
from hetpure.runs.store import RecordStore

if TYPE_CHECKING:
    import lightning


class SampleQueue:
    """The samples of a row, given as dataset indices, that have no record yet."""

    def __init__(
        self, store: RecordStore, samples: Sequence[int], trainer: lightning.Trainer, awaits_all: bool = False
    ) -> None:
        self.store = store
        self.file = store.folder / "samples.lock"
        self.processes = trainer.world_size // trainer.num_nodes
        own = list(samples)[trainer.node_rank % trainer.num_nodes :: trainer.num_nodes]
        self.samples, self.own = set(samples), own
        self._fixed_share = set(own[trainer.local_rank :: self.processes])
        # The first process waits for all others, the first one of each machine for those of its machine.
        self._awaited = (
            self.samples if trainer.is_global_zero or awaits_all else set(own if trainer.local_rank == 0 else [])
        )
        self._locks: IO[bytes] | None = None
        self._sizes: list[int] | None = None
        self._recorded: set[int] = set()

    def left(self) -> int:
        """How many samples have no record yet, on all machines."""
        return len(self.samples - self._done())

    def is_awaited(self) -> bool:
        """Whether this process has to wait for samples that others are at work on."""
        return not self._awaited <= self._done()

    def take(self, batch_size: int) -> list[int]:
        """Locks samples of this machine that are neither recorded nor locked; gives those of the last call back.

        One process takes all. One of several takes half of an even share, so that all end together, but a whole batch
        where its even share has one.
        """
        self.release()
        done = self._done()
        undone = [sample for sample in self.own if sample not in done]
        if not undone:
            return []
        share = len(undone) / self.processes
        count = max(math.ceil(share / 2), min(batch_size, math.ceil(share))) if self.processes > 1 else len(undone)
        try:
            self.store.folder.mkdir(parents=True, exist_ok=True)
            self._locks = self.file.open("ab")
        except OSError as error:
            raise RunError(f"output: {self.store.folder} cannot be written: {error.strerror}") from None
        taken = list(itertools.islice(filter(self._lock, undone), count))
        done = self._done()  # another process may have recorded and freed a sample since it was looked up
        return [sample for sample in taken if sample not in done]

    def release(self) -> None:
        """Gives all samples back; removes the file once nothing is left to do."""
        if self._locks is not None:
            self._locks.close()
            self._locks = None
        if not self.left():
            with contextlib.suppress(OSError):
                self.file.unlink()

    def _lock(self, sample: int) -> bool:
        assert self._locks is not None
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, sample)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks
            return sample in self._fixed_share
        return True

    def _done(self) -> set[int]:
        sizes = [file.stat().st_size for file in sorted(self.store.folder.glob("samples-*.jsonl"))]
        if sizes != self._sizes:
            self._sizes, self._recorded = sizes, self.store.done()
        return self._recorded
