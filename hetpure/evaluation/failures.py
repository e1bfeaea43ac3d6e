"""Samples that cannot be evaluated, as an image cannot be read or code raises: they are named, the rest goes on."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import hetpure
from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import ConfigError, RunError
from hetpure.evaluation.build import Row
from hetpure.evaluation.recorder import current_settings
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore

ERRORS = "errors.txt"
"""In a row's folder: the whole tracebacks."""


class Failures:
    """Evaluates samples of a row, and records those that cannot be.

    Args:
        row: with its model, whose seed and protocols the records have.
        store: where they go.
        data: the images; its ``samples`` are set.
        test: evaluates ``data.samples``; whole batches are recorded, in order.
    """

    def __init__(self, row: Row, store: RecordStore, data: ImageDataModule, test: Callable[[], object]) -> None:
        self.row, self.store, self.data, self.test = row, store, data, test

    def evaluate(self, samples: Sequence[int]) -> None:
        """Evaluates samples, given as dataset indices. Where a batch raises, its samples are tried one by one.

        Raises:
            RunError: where all samples of a batch raise, or no sample of the row has a result: then it is not the
                samples. They are not recorded.
        """
        unreadable = self.data.scan().unreadable
        for index in samples:
            if index in unreadable:
                self._record(index, unreadable[index])
        left = [index for index in samples if index not in unreadable]
        while left:
            self.data.samples = left
            try:
                self.test()
            except Exception as error:
                _check(error)
                done = self.store.done()
                undone = [index for index in left if index not in done]
                batch, left = undone[: self.data.batch_size], undone[self.data.batch_size :]
                self._one_by_one(batch, error, any_result=bool(done))
            else:
                return

    def _one_by_one(self, batch: Sequence[int], first: Exception, any_result: bool) -> None:
        errors: dict[int, Exception] = {}
        for index in batch:
            if len(batch) == 1:
                errors[index] = first
                continue
            self.data.samples = [index]
            try:
                self.test()
            except Exception as error:
                _check(error)
                errors[index] = error
        if not errors:  # another process's fault, such as memory that is free again
            return
        for error in errors.values():
            self._keep(error)
        if len(errors) == len(batch) and (len(batch) > 1 or not any_result):
            reason, kept = describe(next(iter(errors.values()))), self.store.folder / ERRORS
            raise RunError(f"{self.row.name}: every sample fails: {reason}; the whole traceback is in {kept}")
        for index, error in errors.items():
            self._record(index, describe(error))

    def _record(self, index: int, reason: str) -> None:
        label, model = int(self.data.test_source.labels[index]), self.row.model
        common = {"seed": model.seed, "failure": reason, "settings": current_settings(self.store)}
        records = [
            Record(index, protocol.name, label, [], [], draws=protocol.draws, **common) for protocol in model.protocols
        ]
        try:
            self.store.append(records)
        except OSError as error:
            raise RunError(f"output: {self.store.folder} cannot be written: {error.strerror}") from None
        model.notify(f"sample {index}: {reason}; it is recorded as failed, the rest goes on")

    def _keep(self, error: Exception) -> None:
        try:
            self.store.folder.mkdir(parents=True, exist_ok=True)
            with (self.store.folder / ERRORS).open("a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)) + "\n")
        except OSError:
            pass  # the line says what it can


def describe(error: Exception) -> str:
    """An exception in a line, with the place in the code that it comes from; other people's before this package's."""
    message = " ".join(str(error).split())[:160]
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (str(Path(hetpure.__file__).parent), "site-packages", "dist-packages", "<frozen")
    own = [frame for frame in frames if not any(part in frame.filename for part in libraries)] or frames
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    stage = "attack" if any(frame.filename.endswith("attacks/callback.py") for frame in frames) else "defense"
    return f"{type(error).__name__} in the {stage}: {message}{place}"


def _check(error: Exception) -> None:
    """Raises what is no sample's fault: our own refusals, an image that could be read before, a GPU that is gone."""
    if isinstance(error, ConfigError | RunError) or "CUDA error" in str(error):
        raise error
