"""Stopping and resuming: two generations of the training's state, and a Ctrl-C that takes effect after the step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hetpure.errors import ConfigError, RunError
from hetpure.models.checkpoints import CheckpointError, one_line
from hetpure.runs.files import set_aside
from hetpure.training.state_file import read_state

WAY_OUT = "restore last.ckpt or previous.ckpt, choose another output, or remove the folder"


class ResumeFile(Callback):
    """Saves the full training state every so many steps and when training stops for any reason.

    Lightning's ``ModelCheckpoint`` leaves a time limit's last steps unsaved, and can be killed half-way through its
    file. Here the file is written under another name and then renamed, and the one before it is kept: a damaged file
    costs the steps since the previous one. A first Ctrl-C lets the current step finish, saves and stops; a second one
    interrupts at once.

    Args:
        path: the newest file; ``previous.ckpt`` beside it is the one before.
        every: number of optimiser steps between two saves.
    """

    def __init__(self, path: str | Path, every: int):
        self.path, self.every = Path(path), every
        self.previous = self.path.with_name("previous.ckpt")
        self.interrupted = False
        self._saved_step = -1
        self._restoring = False
        self._restored_step = 0

    @property
    def exists(self) -> bool:
        """Whether there is anything to resume from, damaged or not."""
        return any(map(os.path.lexists, (self.path, self.previous)))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the newest whole file the one to resume from, before any process reads it.

        Raises:
            ConfigError: where no file is whole; both stay.
        """
        if stage != "fit" or not self.exists:
            return
        problem = self._repair() if trainer.is_global_zero else ""
        if problem := trainer.strategy.broadcast(problem):  # or the other processes would wait for ever
            raise ConfigError(str(self.path), problem)
        self._restoring = True

    def _repair(self) -> str:
        """Sets a damaged newest file aside for the previous one; returns what stands in the way, if anything."""
        try:
            if (problem := _damage(self.path)) is None:
                if self.previous.is_dir():  # a file would be replaced
                    print(f"{self.previous}: is a directory; kept as {set_aside(self.previous).name}", file=sys.stderr)
                return ""
            if other := _damage(self.previous):
                return f"{problem}, and {self.previous.name} {other}; {WAY_OUT}"
            if os.path.lexists(self.path):
                problem += f"; kept as {set_aside(self.path).name}"
            self.previous.replace(self.path)
        except OSError as error:
            return f"cannot be read or renamed: {error.strerror}"
        print(f"{self.path}: {problem}; resuming from {self.previous.name}", file=sys.stderr)
        return ""

    @contextmanager
    def restoring(self, trainer: Trainer) -> Iterator[None]:
        """Turns what Lightning raises while it restores a state that does not fit into a ConfigError."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            began = trainer.train_dataloader is not None  # data are loaded once the state is restored
            if began or not self._restoring or isinstance(error, ConfigError | RunError | torch.OutOfMemoryError):
                raise
            raise self._misfit(f"{type(error).__name__} {one_line(error, 120)}") from None

    def _misfit(self, reason: str) -> ConfigError:
        return ConfigError(str(self.path), f"is no state of this training ({reason}); {WAY_OUT}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catches the first Ctrl-C. Not done in hooks: Lightning restores its own handlers in between."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a restored state that would fail in the first step, or silently begin anew."""
        self._saved_step = trainer.global_step
        if trainer.global_step != self._restored_step:
            raise self._misfit("it says in two ways how many steps were taken")
        if not trainer.global_step:
            return
        for optimizer in trainer.optimizers:
            if reason := _lacks(optimizer):
                raise self._misfit(reason)
        if any(
            config.interval == "step" and not config.scheduler.last_epoch for config in trainer.lr_scheduler_configs
        ):
            raise self._misfit("its learning rate's schedule has no state")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has Lightning count batches from the optimiser's steps, as the loader does.

        Its own count depends on where in a step, or in the accumulation of a gradient, the last run was cut off.
        """
        loop, steps = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
        if type(steps) is not int or steps < 0:
            raise self._misfit(f"its global_step is {steps!r:.40}")
        self._restored_step = steps
        batches = steps * trainer.accumulate_grad_batches
        for progress in (loop["epoch_loop.batch_progress"]["current"], loop["epoch_loop.batch_progress"]["total"]):
            progress.update(ready=batches, started=batches, processed=batches, completed=batches)
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self._saved_step:
            self._save(trainer)
        trainer.should_stop = trainer.strategy.broadcast(trainer.should_stop or self.interrupted)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        new = self.path.with_name("new.ckpt")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            # A kill between the two leaves the previous one; the new one is whole before either.
            if self.path.exists():
                self.path.replace(self.previous)
            new.replace(self.path)
        self._saved_step = trainer.global_step


def _damage(path: Path) -> str | None:
    """What is wrong with a state file; None for a whole one."""
    if not os.path.lexists(path):
        return "is missing"
    try:
        read_state(path)
    except CheckpointError as error:
        return one_line(error, 120)
    except PermissionError:  # can be given, and says nothing of damage
        raise
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _lacks(optimizer: torch.optim.Optimizer) -> str:
    """What an optimiser lacks that has taken steps; empty if nothing, or for one whose state is not known here."""
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        needed = ("exp_avg", "exp_avg_sq", "step")
    elif isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        needed = ("momentum_buffer",)
    else:
        return ""
    for group in optimizer.param_groups:
        if missing := sorted(optimizer.defaults.keys() - group.keys()):
            return f"its optimiser has no {missing[0]}"
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = [(weight, optimizer.state[weight]) for weight in weights if weight in optimizer.state]
    for weight, state in states:  # a weight that has no gradient has no state
        for key in needed:
            value = state.get(key) if isinstance(state, dict) else None
            found = value.shape if isinstance(value, Tensor) else None
            if found != (() if key == "step" else weight.shape):
                return f"its optimiser's {key} of a weight {list(weight.shape)} has shape {found and list(found)}"
    return "" if states else "its optimiser has no state"
