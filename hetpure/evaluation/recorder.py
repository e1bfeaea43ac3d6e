"""The callback that turns test batches into records."""

import itertools
import math
import time
from collections.abc import Collection
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import RunError
from hetpure.evaluation.evaluator import Evaluator
from hetpure.runs.records import Record, RecordStore, shortest


class Recorder(Callback):
    """Writes each batch's records as soon as the batch is done. Comes before the attack in the list of callbacks.

    Args:
        store: where to.
        data: told which samples are done already.
        only: the samples to evaluate; None for all.
    """

    def __init__(self, store: RecordStore, data: ImageDataModule, only: Collection[int] | None = None) -> None:
        self.store, self.data, self.only = store, data, only
        self._start = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Mends what a kill left and settles what is to do: on the first process, which tells the others.

        Each would find the others' new records otherwise, and the shares would not fit together.
        """
        excluded: list[int] = []
        if trainer.is_global_zero:
            try:
                self.store.mend()
            except OSError as error:
                raise RunError(f"output: {self.store.folder} cannot be written: {error.strerror}") from None
            excluded = sorted(to_exclude(self.store, self.data, self.only))
        self.data.exclude = frozenset(trainer.strategy.broadcast(excluded))

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Starts the batch's clock."""
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
        assert isinstance(pl_module, Evaluator)
        index, label = batch["index"].tolist(), batch["label"].tolist()
        attacked = "adversarial" in outputs
        adversarial = batch["adversarial"].cpu().numpy() if attacked else []
        images = {k: image for k, image in zip(index, adversarial, strict=False) if k not in outputs["failure"]}
        chunks = {"defense": outputs["chunk"]}
        if attacked:
            chunks["attack"] = batch["attack_chunk"]
        # float() of the scores waits for the device: only after it is the work done.
        columns = {
            (side, protocol.name): shortest(outputs[side][protocol.name].float().cpu())
            for side in ("clean", "adversarial")[: 1 + attacked]
            for protocol in pl_module.protocols
        }
        seconds = (time.perf_counter() - self._start) / len(index)
        records = []
        for i, k in enumerate(index):
            failure = outputs["failure"].get(k)
            for protocol in pl_module.protocols:
                sides: dict[str, Any] = {"clean": [], "clean_scores": []}
                for side in ("clean", "adversarial")[: 1 + attacked] if failure is None else ():
                    scores = columns[side, protocol.name][i]
                    sides |= {side: [row.index(max(row)) for row in scores], f"{side}_scores": scores}
                records.append(
                    Record(
                        index=k,
                        protocol=protocol.name,
                        label=label[i],
                        **sides,
                        attack_loss=_finite(batch["attack_loss"][i]) if attacked else [],
                        gradient_size=_finite(batch["gradient_size"][i]) if attacked else [],
                        attack_correct=_finite(batch["attack_correct"][i]) if attacked else [],
                        seconds=seconds,
                        seed=pl_module.model.seed,
                        draws=protocol.draws,
                        chunks=chunks,
                        image=self.store.image_name(images) if k in images else None,
                        failure=failure,
                    )
                )
            if failure is not None:
                pl_module.say(f"sample {k}: {failure}; it is recorded as failed, the rest goes on")
        try:
            self.store.append(records, images)
        except OSError as error:
            raise RunError(
                f"output: {self.store.folder} cannot be written: {error.strerror or error}; finished batches are kept"
            ) from None


def to_exclude(store: RecordStore, data: ImageDataModule, only: Collection[int] | None) -> set[int]:
    """Samples that are done, or not to be done."""
    return store.done() | (set(data.indices) - set(only) if only is not None else set())


def _finite(values: list[float]) -> list[float]:
    """Up to the first value that JSON has no word for."""
    return list(itertools.takewhile(math.isfinite, values))
