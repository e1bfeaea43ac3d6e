"""The callback that turns test batches into records."""

import itertools
import math
import time
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from hetpure.defense.batch import ATTACKED, CERTIFIED, AttackedImages, BatchScores, CertifiedImages
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import RunError
from hetpure.runs.records import Record, shortest
from hetpure.runs.store import RecordStore


def current_settings(store: RecordStore) -> str:
    """The hash of the settings under which new records are made; empty where it is not known."""
    return (store.expected.settings or ("",))[0]


class Recorder(Callback):
    """Writes each batch's records as soon as the batch is done. Comes before the attack in the list of callbacks."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self._start = 0.0

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Writes the batch; RunError where it cannot be written."""
        assert isinstance(pl_module, PurifiedClassifier)
        assert isinstance(outputs, BatchScores)
        attacked: AttackedImages | None = batch.get(ATTACKED)
        certified: CertifiedImages | None = batch.get(CERTIFIED)
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
        image_file = self.store.image_name(images) if images else None
        settings = current_settings(self.store)
        records = []
        for i, index in enumerate(indices):
            failure = outputs.failures.get(index)
            common: dict[str, Any] = {"index": index, "label": labels[i], "seconds": seconds, "seed": pl_module.seed}
            common |= {"failure": failure, "chunks": {"defense": outputs.chunk_size}, "settings": settings}
            if attacked is not None:
                trace = attacked.traces[i]
                curves = {
                    "attack_loss": trace.loss,
                    "gradient_size": trace.gradient_size,
                    "attack_correct": trace.correct,
                }
                for name, values in curves.items():  # JSON has no word for what is not finite
                    common[name] = list(itertools.takewhile(math.isfinite, values))
                common["trials"], common["left_after"] = trace.trials, trace.left_after if failure is None else None
                common["chunks"]["attack"] = attacked.chunk_size
                common["image"] = image_file if index in images else None
            if certified is not None:
                common["chunks"]["certificate"] = certified.chunk_size
            for protocol in pl_module.protocols:
                predictions: dict[str, Any] = {"clean": [], "clean_scores": []}
                for side, by_protocol in scores.items() if failure is None else ():
                    evaluations = by_protocol[protocol.name][i]
                    predictions[side] = [row.index(max(row)) for row in evaluations]
                    predictions[f"{side}_scores"] = evaluations
                if failure is None and outputs.checkpoints:
                    predictions["checkpoints"] = {
                        str(number): [row.index(max(row)) for row in by_protocol[protocol.name][i].tolist()]
                        for number, by_protocol in outputs.checkpoints.items()
                    }
                if certified is not None and protocol is pl_module.protocols[0]:
                    predictions["certificate"] = certified.certificates.get(index)
                records.append(Record(protocol=protocol.name, draws=protocol.draws, **common, **predictions))
            if failure is not None:
                pl_module.notify(f"sample {index}: {failure}; it is recorded as failed, the rest goes on")
        try:
            self.store.append(records, images)
        except OSError as error:
            reason = error.strerror or error
            problem = f"output: {self.store.folder} cannot be written: {reason}; finished batches are kept"
            raise RunError(problem) from None
