import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hetpure.errors import RunError
from hetpure.evaluation.sample_queue import SampleQueue
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore


def trainer(rank: int = 0, world: int = 1, machine: int = 0, machines: int = 1) -> Any:
    return SimpleNamespace(
        world_size=world, num_nodes=machines, node_rank=machine, local_rank=rank, is_global_zero=rank == machine == 0
    )


def queue(folder: Path, samples: list[int], **place: int) -> SampleQueue:
    return SampleQueue(RecordStore(folder / "row", rank=place.get("rank", 0)), samples, trainer(**place))


def record(queue: SampleQueue, *samples: int) -> None:
    queue.store.append([Record(sample, "one-shot", 0, [0], [[1.0]]) for sample in samples])


class Other:
    """Another process that does something with a queue and then waits to be killed."""

    def __init__(self, work: Callable[[], Any]) -> None:
        (read, write), (wait, self._release) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                work()
                os.write(write, b"ready")
                os.close(self._release)
                os.read(wait, 1)
            finally:
                os._exit(0)
        assert os.read(read, 5) == b"ready"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_one_process_takes_all_and_then_what_is_left(tmp_path: Path) -> None:
    samples = [5, 3, 9, 1]
    one = queue(tmp_path, samples)
    assert one.left() == 4 and one.take(2) == samples
    record(one, 3, 9)
    assert one.left() == 2 and one.take(2) == [5, 1]
    record(one, 5, 1)
    assert one.take(2) == [] and not one.is_awaited()
    one.release()
    assert not one.file.exists(), "nothing is left to lock"


def test_samples_at_work_elsewhere_are_left_alone_until_that_process_dies(tmp_path: Path) -> None:
    samples = list(range(8))
    first, second = (queue(tmp_path, samples, rank=rank, world=2) for rank in range(2))
    other = Other(lambda: second.take(2))
    try:
        assert first.take(8) == [2, 3, 4, 5], "an even share, behind what the other has"
        record(first, 2, 3, 4, 5)
        assert first.take(8) == [6, 7]
        record(first, 6, 7)
        assert first.take(8) == [] and first.is_awaited()
        assert not queue(tmp_path, samples, rank=1, world=2).is_awaited(), "only the first process waits"
    finally:
        other.kill()
    assert first.take(8) == [0], "half of what is left"
    record(first, 0)
    assert first.take(8) == [1]
    record(first, 1)
    assert first.take(8) == [] and not first.is_awaited()


def test_a_sample_recorded_since_it_was_looked_up_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    """The other process records and frees it between the look and the lock."""
    first, second = (queue(tmp_path, [0, 1], rank=rank, world=2) for rank in range(2))
    lock = first._lock

    def late(sample: int) -> bool:
        record(second, sample)
        return lock(sample)

    monkeypatch.setattr(first, "_lock", late)
    assert first.take(1) == []


def test_shares_fall_to_a_batch_and_stay_even_at_the_end(tmp_path: Path) -> None:
    first = queue(tmp_path, list(range(100)), rank=0, world=4)
    counts = []
    while samples := first.take(8):
        record(first, *samples)
        counts.append(len(samples))
    assert counts[:8] == [13, 11, 10, 9, 8, 8, 8, 8] and sum(counts) == 100
    assert counts[-6:] == [3, 2, 1, 1, 1, 1]


def test_each_machine_has_its_own_samples_and_the_first_process_waits_for_all(tmp_path: Path) -> None:
    samples = list(range(7))
    here, there = (queue(tmp_path, samples, machine=machine, machines=2, world=2) for machine in range(2))
    assert here.take(9) == [0, 2, 4, 6] and there.take(9) == [1, 3, 5]
    record(here, 0, 2, 4, 6)
    assert here.take(9) == [] and here.is_awaited() and here.left() == 3
    record(there, 1, 3, 5)
    assert there.take(9) == [] and not there.is_awaited() and not here.is_awaited()


def test_without_locks_every_process_has_a_fixed_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("hetpure.evaluation.sample_queue.fcntl.lockf", unsupported)
    for rank in range(2):
        own = queue(tmp_path, list(range(5)), rank=rank, world=2)
        while samples := own.take(2):
            record(own, *samples)
        assert {r.index for r in own.store.read()} >= set(range(rank, 5, 2))
        assert own.left() == (2 if rank == 0 else 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "row").touch()
    with pytest.raises(RunError, match="row cannot be written"):
        queue(tmp_path, [1]).take(1)
