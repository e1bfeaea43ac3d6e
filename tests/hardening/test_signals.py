"""Signals at 20 random moments of an evaluation on one and on two processes, each time followed by the same command."""

import random
import signal
import time
from pathlib import Path

import pytest

from hetpure.errors import INTERRUPTED, STOPPED
from tests.evaluation import jobs, kills, slow_evaluate

ROWS = {"only": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}
SETTINGS = ["data.subset=24", "data.batch_size=1", "attack.steps=2", "attack.eot=2", "ensemble.size=2", "chunk_size=4",
            "protocols.resubmissions=2"]  # fmt: skip
CODES = {signal.SIGINT: (INTERRUPTED,), signal.SIGTERM: (143,), signal.SIGKILL: (-signal.SIGKILL,)}
"""Of a process that got this signal, where it was not done already."""


def slow_calls() -> None:
    """Every denoiser call takes 10 ms more."""
    slow_evaluate.pause_in_calls(0.01)


def start(output: Path, world: int) -> list[jobs.Rank]:
    return [jobs.Rank(number, world, output, ROWS, *SETTINGS, change=slow_calls) for number in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_signals_at_random_moments_lose_nothing(world: int, tmp_path: Path) -> None:
    chance, run, undisturbed = random.Random(world), tmp_path / "run", tmp_path / "undisturbed"
    assert jobs.evaluate(undisturbed, ROWS, *SETTINGS) == 0
    whole, seen = kills.records_of(undisturbed), {}
    for _ in range(10):
        processes, number = start(run, world), chance.choice([*CODES])
        while not all(process.log.exists() for process in processes):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 1.5))
        for process in chance.sample(processes, chance.randint(1, world)):
            process.signal(number)
            signalled = time.monotonic()
            code = process.join(20.0)
            # A process in which the command has not begun ends as any Python program does.
            unprepared = (1, -number) if not process.printed else (-number,)
            assert code in (0, *CODES[number], *unprepared, STOPPED), process.printed
            assert time.monotonic() - signalled < 10.0
            assert "Traceback" not in process.printed, process.printed
        for process in processes:
            process.signal(signal.SIGTERM)
            assert process.join(20.0) is not None
        found = kills.records_of(run) if run.exists() else {}
        assert found.items() >= seen.items(), "what was recorded stays"
        assert whole.items() >= found.items(), "and is what it would have been"
        seen = found
    assert jobs.evaluate(run, ROWS, *SETTINGS) == 0
    assert kills.records_of(run) == whole
    assert not list(run.rglob("*.part")) and not list(run.rglob("*.damaged*"))
