"""Ctrl-C at random moments: ``python -m tests.evaluation.interrupts 30 FOLDER``.

Each trial is an evaluation in a fork of this process, which has imported everything already: two seconds of work. It is
pressed once, at a random moment; printed is how many batches it still wrote, and how often Python said that it had to
ignore an exception.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.evaluation import jobs

ROWS = {"only": {}}
SETTINGS = ["data.subset=400", "data.batch_size=1", "attack.steps=3", "attack.eot=2", "ensemble.size=2", "chunk_size=2",
            "purifier.grid_size=20", "attack.recompute=true"]  # fmt: skip


def evaluate(output: Path, *settings: str) -> int:
    return jobs.evaluate(output, ROWS, *SETTINGS, *settings)


def forked(work: Callable[[], int], log: Path) -> int:
    """Work in a fork that hears Ctrl-C and prints to a file; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """A child's exit code, None and no child any more where it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def lines(output: Path) -> int:
    with contextlib.suppress(OSError):
        return (output / "only" / "samples-000.jsonl").read_bytes().count(b"\n")
    return 0


def press(output: Path, chance: random.Random) -> bool:
    """One trial; whether the one press was heard."""
    log = output.with_suffix(".log")
    pid = forked(lambda: evaluate(output), log)
    wanted = chance.randint(1, 10)
    while lines(output) < wanted:
        time.sleep(0.002)
    time.sleep(chance.random() * 0.1)
    before, pressed = lines(output), time.monotonic()
    os.kill(pid, signal.SIGINT)
    code = ended(pid, 60.0)
    took, more = time.monotonic() - pressed, lines(output) - before
    swallowed = log.read_text(errors="replace").count("Exception ignored")
    print(f"exit {code}, {took:4.2f} s later, {more} batches more, {swallowed} dropped by Python", flush=True)
    return code == 130 and more <= 1


if __name__ == "__main__":
    trials, folder = int(sys.argv[1]), Path(sys.argv[2])
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    torch.set_num_threads(1)
    assert evaluate(folder / "warm", "data.subset=1") == 0
    heard = sum(press(folder / f"trial-{number:03d}", chance) for number in range(trials))
    print(f"{heard} of {trials} heard at once")
