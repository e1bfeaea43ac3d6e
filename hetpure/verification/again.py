"""A run's rows evaluated again: saved images judged with the recorded or with fresh draws, samples attacked afresh.

Everything goes through ``evaluate_row`` into records in a temporary folder, as in the evaluation itself.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor

from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.search import Observer
from hetpure.data.datamodule import ImageDataModule
from hetpure.evaluation.build import Row
from hetpure.evaluation.run import evaluate_row
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore


class RecordedImages(Attack):
    """An attack that returns images that are there already.

    Args:
        saved: the image (C, H, W) of an index, in [0, 1].
    """

    def __init__(self, saved: Callable[[int], np.ndarray]) -> None:
        self.saved, self.steps = saved, 0

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        return torch.stack([torch.from_numpy(self.saved(index)) for index in sample.tolist()]).to(x)

    def __str__(self) -> str:
        return "recorded images"


def judge(
    row: Row, records: Sequence[Record], data: ImageDataModule, trainer: lightning.Trainer, seed: int | None = None
) -> list[Record]:
    """Clean and saved adversarial images of some records, judged by the row's defense, in the recorded chunks.

    Args:
        row: the row, whose ``store`` has the images.
        records: of which samples, none of them failed.
        data: the clean images.
        trainer: the device.
        seed: of the defender's draws; None for the recorded ones.
    """
    by_index = {record.index: record for record in records}

    def saved(index: int) -> np.ndarray:
        image = row.store.adversarial(by_index[index])
        assert image is not None
        return image

    attack = RecordedImages(saved) if row.attack is not None else None
    with _evaluated(row, attack, records, data, trainer, seed) as store:
        return store.read()


def attack(
    row: Row, records: Sequence[Record], data: ImageDataModule, trainer: lightning.Trainer
) -> tuple[list[Record], dict[int, np.ndarray]]:
    """The samples of some records attacked and judged from scratch, in the recorded chunks.

    Returns:
        Their records, and adversarial images by index.
    """
    with _evaluated(row, row.attack, records, data, trainer) as store:
        found = store.read()
        images = {record.index: store.adversarial(record) for record in found}
    return found, {index: image for index, image in images.items() if image is not None}


@contextmanager
def _evaluated(
    row: Row,
    attack: Attack | None,
    records: Sequence[Record],
    data: ImageDataModule,
    trainer: lightning.Trainer,
    seed: int | None = None,
) -> Iterator[RecordStore]:
    """The samples of some records evaluated again, for as long as the context lasts."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for record in {record.index: record for record in records}.values():
        size = row.model.chunk_size
        groups[record.chunks.get("defense", size), record.chunks.get("attack", size)].append(record.index)
    with tempfile.TemporaryDirectory() as folder:
        store = RecordStore(Path(folder) / "row", row.store.protocols)
        again = replace(row, attack=attack, store=store, variants={}, certify=row.certify if seed is None else None)
        for (defense, attacker), indices in groups.items():
            with _settings(row, defense, attacker, seed):
                evaluate_row(again, trainer, data, indices)
        yield store


@contextmanager
def _settings(row: Row, defense: int, attacker: int, seed: int | None) -> Iterator[None]:
    """The row's processes with other chunk sizes and, of the defender's draws, another seed."""
    before = row.model.seed, row.model.chunk_size, [process.chunk_size for process in row.processes]
    row.model.chunk_size = defense
    row.model.seed = row.model.seed if seed is None else seed
    for process in row.processes:
        process.chunk_size = attacker
    try:
        yield
    finally:
        row.model.seed, row.model.chunk_size, sizes = before
        for process, size in zip(row.processes, sizes, strict=True):
            process.chunk_size = size
