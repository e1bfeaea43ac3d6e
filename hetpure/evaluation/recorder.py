"""The callback that turns test batches into records."""

import itertools
import math
import time
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from hetpure.defense.batch import ATTACKED, AttackedImages, BatchScores
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import RunError
from hetpure.runs.records import Record, RecordStore, shortest


class Recorder(Callback):
    """Writes each batch's records as soon as the batch is done. Comes before the attack in the list of callbacks.

    Args:
        store: where to.
    """

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self._start = 0.0

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the batch.

        Raises:
            RunError: where it cannot be written.
        """
        assert isinstance(pl_module, PurifiedClassifier)
        assert isinstance(outputs, BatchScores)
        attacked: AttackedImages | None = batch.get(ATTACKED)
        indices, labels = batch["index"].tolist(), batch["label"].tolist()
        # Reading the scores waits for the device: only after it is the work done.
        scores = {
            side: {name: shortest(values.float().cpu()) for name, values in by_protocol.items()}
            for side, by_protocol in outputs.scores.items()
        }
        seconds = (time.perf_counter() - self._start) / len(indices)
        images: dict[int, np.ndarray] = {}
        if attacked is not None:
            adversarial = zip(indices, attacked.images.cpu().numpy(), strict=True)
            images = {index: image for index, image in adversarial if index not in outputs.failures}
        records = []
        for i, index in enumerate(indices):
            failure = outputs.failures.get(index)
            common: dict[str, Any] = {"index": index, "label": labels[i], "seconds": seconds, "seed": pl_module.seed}
            common |= {"failure": failure, "chunks": {"defense": outputs.chunk_size}}
            if attacked is not None:
                trace = attacked.traces[i]
                common["attack_loss"] = _until_not_finite(trace.loss)
                common["gradient_size"] = _until_not_finite(trace.gradient_size)
                common["attack_correct"] = _until_not_finite(trace.correct)
                common["chunks"]["attack"] = attacked.chunk_size
                common["image"] = self.store.image_name(images) if index in images else None
            for protocol in pl_module.protocols:
                predictions: dict[str, Any] = {"clean": [], "clean_scores": []}
                for side, by_protocol in scores.items() if failure is None else ():
                    evaluations = by_protocol[protocol.name][i]
                    predictions[side] = [row.index(max(row)) for row in evaluations]
                    predictions[f"{side}_scores"] = evaluations
                records.append(Record(protocol=protocol.name, draws=protocol.draws, **common, **predictions))
            if failure is not None:
                pl_module.notify(f"sample {index}: {failure}; it is recorded as failed, the rest goes on")
        try:
            self.store.append(records, images)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"output: {self.store.folder} cannot be written: {reason}; finished batches are kept"
            ) from None


def _until_not_finite(values: list[float]) -> list[float]:
    """The values before the first that JSON has no word for."""
    return list(itertools.takewhile(math.isfinite, values))
