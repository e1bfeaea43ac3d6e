"""What an evaluation leaves behind, sample by sample: one JSON line each, and its adversarial image.

Every process appends to a file of its own, a batch at a time, so that a process that dies takes nothing with it but the
batch in flight, and so that a later run, with any number of processes, goes on with the samples that have no line yet.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One sample's outcome.

    Attributes:
        index: position in the dataset split.
        label: true class.
        clean: class scores of the clean image.
        adversarial: class scores of the adversarial image; empty where there was no attack.
        attack_loss: the attacker's mean loss at each iteration.
        seconds: the sample's share of its batch's time, attack and defense together.
    """

    index: int
    label: int
    clean: list[float]
    adversarial: list[float]
    attack_loss: list[float]
    seconds: float


class RecordStore:
    """The records of one row in a folder.

    Args:
        folder: where; made with the first batch.
        rank: this process's number, which names its file.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.file = folder / f"samples-{rank:03d}.jsonl"

    def append(self, records: list[Record], adversarial: Tensor | None) -> None:
        """Writes a batch: images first, then its lines at once, so that a line never lacks its image.

        Args:
            records: a batch's records.
            adversarial: their adversarial images (B, C, H, W), if there was an attack.
        """
        (self.folder / "adversarial").mkdir(parents=True, exist_ok=True)
        if adversarial is not None:
            for record, image in zip(records, adversarial.cpu(), strict=True):
                target = self._image_file(record.index)
                part = target.with_suffix(f".{os.getpid()}.part")
                save_file({"adversarial": image.contiguous()}, part)
                part.replace(target)
        text = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        with self.file.open("a+b") as file:
            # A line that a kill cut short would swallow the next one.
            if file.tell() and not self._ends_whole():
                file.write(b"\n")
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Record]:
        """All processes' records, by index; cut-off lines are left out, a sample counts once."""
        records = {}
        for file in sorted(self.folder.glob("samples-*.jsonl")):
            for line in file.read_text().splitlines():
                try:
                    record = Record(**json.loads(line))
                except (json.JSONDecodeError, TypeError):
                    continue
                records.setdefault(record.index, record)
        return [records[index] for index in sorted(records)]

    def adversarial(self, index: int) -> Tensor | None:
        """A sample's adversarial image (C, H, W) in [0, 1], bit for bit as it was attacked; None if there is none."""
        file = self._image_file(index)
        return load_file(file)["adversarial"] if file.is_file() else None

    def _image_file(self, index: int) -> Path:
        return self.folder / "adversarial" / f"{index:06d}.safetensors"

    def _ends_whole(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def scores_of(records: list[Record], name: str) -> tuple[Tensor, Tensor]:
    """Scores (N, K) and labels (N,) of the records that have scores called ``clean`` or ``adversarial``."""
    having = [record for record in records if getattr(record, name)]
    scores = torch.tensor([getattr(record, name) for record in having])
    return scores, torch.tensor([record.label for record in having], dtype=torch.long)
