"""The demo's config with rows of a test's own: in this process, or in several at once."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from hetpure.cli import main
from hetpure.config import read_config
from hetpure.errors import INTERRUPTED
from tests.runs.schemas import check_folder

# Processes are forked from a server that has imported everything and computed nothing.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.evaluation.jobs", "hetpure.evaluation.run"])


def evaluate(output: Path, rows: dict[str, Any], *overrides: str) -> int:
    """``evaluate.py`` in this process, with the demo's networks and data; its exit code."""
    text = yaml.safe_dump(read_config("digits.yaml", []) | {"rows": rows})
    output.parent.mkdir(exist_ok=True)
    file = output.parent / "job.yaml"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    settings = [f"output={output}", "threads=1", "pictures=0", "wandb.mode=disabled", *overrides]
    code = main(["evaluate", "--config", str(file), *settings])
    check_folder(output)
    return code


class Rank:
    """One of several processes of an evaluation, started as torchrun would start it.

    Args:
        rank: of the process.
        world: how many there are.
        output: the run's folder; what the process prints goes to a file beside it.
        rows: of the config.
        overrides: of the config.
        change: called in the process before the evaluation, to break something.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        output: Path,
        rows: dict[str, Any],
        *overrides: str,
        change: Callable[[], None] | None = None,
    ) -> None:
        self.log = output.parent / f"rank-{rank}.log"
        output.parent.mkdir(exist_ok=True)
        self.log.unlink(missing_ok=True)
        settings = (*overrides, f"trainer.devices={world}", "trainer.strategy=ddp")
        arguments = (rank, self.log, change, output, rows, settings)
        self.process: BaseProcess = _SERVER.Process(target=_evaluate_as, args=arguments, daemon=True)
        self.process.start()

    def signal(self, number: int) -> None:
        """Sends a signal, if the process still lives."""
        assert self.process.pid is not None
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def join(self, seconds: float = 120.0) -> int | None:
        """Waits for the end; the exit code, None and the process killed where it takes longer."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        return code

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _evaluate_as(
    rank: int,
    log: Path,
    change: Callable[[], None] | None,
    output: Path,
    rows: dict[str, Any],
    overrides: tuple[str, ...],
) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    if change is not None:
        change()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = evaluate(output, rows, *overrides)
    except KeyboardInterrupt:  # before the command itself has begun
        code = INTERRUPTED
    sys.exit(code)
