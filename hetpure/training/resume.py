"""Stopping and resuming: one resume file, replaced as a whole, and a Ctrl-C that takes effect after the step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer


class ResumeFile(Callback):
    """Saves the full training state every so many steps and when training stops for any reason.

    Lightning's ``ModelCheckpoint`` leaves a time limit's last steps unsaved, and can be killed half-way through its
    file. Here the file is written under another name and then renamed. A first Ctrl-C lets the current step finish,
    saves and stops; a second one interrupts at once.

    Args:
        path: the file.
        every: number of optimiser steps between two saves.
    """

    def __init__(self, path: str | Path, every: int):
        self.path, self.every = Path(path), every
        self.interrupted = False
        self._saved_step = -1

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
        self._saved_step = trainer.global_step

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has Lightning count batches from the optimiser's steps, as the loader does.

        Its own count depends on where in a step, or in the accumulation of a gradient, the last run was cut off.
        """
        loop, steps = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
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
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(self.path)
        self._saved_step = trainer.global_step
