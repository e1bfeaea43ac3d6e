"""The callback that turns test batches into records."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hetpure.evaluation.records import Record, RecordStore


class Recorder(Callback):
    """Writes each batch's records as soon as the batch is done. Comes before the attack in the list of callbacks.

    Args:
        store: where to.
    """

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self._start = 0.0

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Starts the batch's clock."""
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the batch."""
        count = len(batch["label"])
        empty: list[list[float]] = [[]] * count
        columns = zip(
            batch["index"].tolist(),
            batch["label"].tolist(),
            outputs["clean"].tolist(),
            outputs["adversarial"].tolist() if "adversarial" in outputs else empty,
            batch["attack_loss"].tolist() if "attack_loss" in batch else empty,
            strict=True,
        )
        # Reading the scores waited for the device: only now is the work done.
        seconds = (time.perf_counter() - self._start) / count
        self.store.append([Record(*values, seconds=seconds) for values in columns], batch.get("adversarial"))
