"""Lightning's DDP launchers and ranks, without a process group: processes that share nothing but a run's folder."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import lightning
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

LAUNCHER = "HETPURE_LAUNCHER"
"""Environment variable with the id of the process that started this one."""


class IndependentProcesses(DDPStrategy):
    """Processes that never wait for each other: without a process group, DDP's barriers and reductions do nothing.

    They are started as DDP's are: by this process, by torchrun, by SLURM, on one machine or several.
    """

    def setup_distributed(self) -> None:
        self.set_world_ranks()

    def setup(self, trainer: lightning.Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()  # not wrapped, nor its parameters broadcast
        self.setup_precision_plugin()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's, without the thread that kills all processes when one ends."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[LAUNCHER] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                del os.environ[LAUNCHER]
        return function(*args, **kwargs)


def starts_processes(trainer: lightning.Trainer) -> bool:
    """Whether this process starts all others of an evaluation, so that none of them is at work before it."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return trainer.num_nodes == 1 and not (environment and environment.creates_processes_externally)


def started_processes(trainer: lightning.Trainer) -> Iterator[tuple[str, int | None]]:
    """Each process that this one has started, in words, with its exit code if it has ended."""
    for number, process in enumerate(getattr(trainer.strategy.launcher, "procs", []), trainer.global_rank + 2):
        yield f"process {number} of {trainer.world_size} (pid {process.pid})", process.poll()


def is_orphan() -> bool:
    """Whether the process that started this one has ended."""
    return int(os.environ.get(LAUNCHER, os.getppid())) != os.getppid()
