"""The records of a run: one JSON line per sample and protocol, and the adversarial images.

``docs/reference/run-folder.md`` describes both. Every process appends to a file of its own, one batch at a time. So a
process that dies loses only the batch in flight, and a later run, with any number of processes, continues with the
samples that have no line yet.

Images are kept as the float32 values that were evaluated, not rounded to 8 bits, as published attacks work on such
values. A batch is one ``.npz`` (LZMA), which ``numpy.load`` reads; because signed steps leave few distinct values, it
takes about 40 to 60 % of the raw bytes (L2: 85 %).
"""

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike

from hetpure.runs.files import write_whole

Side = Literal["clean", "adversarial"]


@dataclass(frozen=True)
class Record:
    """One sample's outcome under one protocol."""

    index: int  # position in the dataset split
    protocol: str
    label: int
    clean: list[int]  # class predicted for the clean image, in each of the protocol's evaluations
    clean_scores: list[list[float]]  # class scores of each of them
    adversarial: list[int] = field(default_factory=list)  # like clean; empty without an attack
    adversarial_scores: list[list[float]] = field(default_factory=list)
    attack_loss: list[float] = field(default_factory=list)  # the attacker's mean loss at each gradient
    gradient_size: list[float] = field(default_factory=list)  # largest absolute value of each of them
    attack_correct: list[float] = field(default_factory=list)  # share of the attacker's draws still classified right
    seconds: float = 0.0  # the sample's share of its batch's time for the attack and all protocols
    seed: int = 0  # of all draws; with index and a purification's number it reproduces each of them
    draws: int = 1  # purifications that the protocol used, numbered from 0
    chunks: dict[str, int] = field(default_factory=dict)  # rows in a network call of "attack" and "defense"
    image: str | None = None  # file in the row's folder that holds the adversarial image, under the name of its index
    failure: str | None = None  # why there is no result; predictions are then empty

    def right(self, side: Side) -> bool | None:
        """Whether every evaluation of the clean or adversarial image was right; None if there was none."""
        predictions = self.clean if side == "clean" else self.adversarial
        return all(predicted == self.label for predicted in predictions) if predictions else None


def shortest(values: ArrayLike) -> list:
    """float32 values as nested lists of the shortest decimals with the same bits."""
    values = np.asarray(values, dtype=np.float32)
    return [shortest(part) for part in values] if values.ndim > 1 else [float(str(value)) for value in values]


class RecordStore:
    """The records of one row.

    Args:
        folder: the row's folder; made with the first batch.
        protocols: names of the protocols under which a finished sample has a record.
        rank: this process's number, which names its file.
    """

    def __init__(self, folder: Path, protocols: Sequence[str] = ("one-shot",), rank: int = 0) -> None:
        self.folder, self.protocols, self.rank = folder, tuple(protocols), rank
        self.file = folder / f"samples-{rank:03d}.jsonl"

    @property
    def files(self) -> list[Path]:
        """The record files of all processes."""
        return sorted(self.folder.glob("samples-*.jsonl"))

    def append(self, records: Sequence[Record], images: Mapping[int, np.ndarray] | None = None) -> None:
        """Writes a batch: first its images, then its lines in one write, so that a line never lacks its image.

        The records of a sample come one after the other and name the file of its image: (C, H, W), float32, by index.

        Raises:
            OSError: if the disk is full or the folder cannot be written; what was there before stays whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if images:
            file = self.folder / self.image_name(images)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, _npz(images), file.with_suffix(f".{self.file.stem}.part"))
        text = "".join(json.dumps(asdict(record)) + "\n" for record in records).encode()
        with self.file.open("ab", buffering=0) as file:
            while text:
                text = text[file.write(text) :]
            os.fsync(file.fileno())

    @staticmethod
    def image_name(images: Iterable[int]) -> str:
        """The file of a batch's images. It is overwritten only while the batch's first sample has no record."""
        return f"adversarial/{next(iter(images)):06d}.npz"

    def read(self) -> list[Record]:
        """Records of finished samples from all processes, by index and protocol; the first of duplicates counts."""
        samples: dict[int, dict[str, Record]] = {}
        for file in self.files:
            for _, record in _lines(file):
                if isinstance(record, Record):
                    samples.setdefault(record.index, {}).setdefault(record.protocol, record)
        return [
            samples[index][protocol]
            for index in sorted(samples)
            if set(self.protocols) <= set(samples[index])
            for protocol in self.protocols
        ]

    def done(self) -> set[int]:
        """Indices of the samples that have all their records."""
        return {record.index for record in self.read()}

    def mend(self, world: int = 1) -> None:
        """Cuts off what a kill left at the end of files: half a line, a sample without all its lines, half an image.

        Of the files of this process, and of the processes rank + world, rank + 2 world, .. of an earlier, larger run:
        each of ``world`` processes mends its own.
        """
        done = self.done()
        for file in self.files:
            if (int(file.stem.removeprefix("samples-")) - self.rank) % world:
                continue
            keep = 0
            for end, record in _lines(file):
                unfinished = record.index not in done if isinstance(record, Record) else record is None
                keep = keep if unfinished else end
            if keep < file.stat().st_size:
                os.truncate(file, keep)
        for part in self.folder.glob(f"adversarial/*{'' if world == 1 else '.' + self.file.stem}.part"):
            part.unlink(missing_ok=True)

    def adversarial(self, record: Record) -> np.ndarray | None:
        """A sample's adversarial image (C, H, W) in [0, 1], bit for bit as it was evaluated; None without one."""
        if record.image is None or not re.fullmatch(r"adversarial/\d+\.npz", record.image):
            return None
        with np.load(self.folder / record.image, allow_pickle=False) as file:
            return file[str(record.index)]


def _lines(file: Path) -> Iterator[tuple[int, Record | object | None]]:
    """The end of each line in bytes and its content: a record, other JSON, or None for a line that was cut short."""
    end = 0
    for line in file.read_bytes().splitlines(keepends=True):
        end += len(line)
        content: Record | object | None = None
        if line.endswith(b"\n"):
            # A TypeError is of a line of another program, which must not be removed.
            with contextlib.suppress(ValueError, TypeError):
                content = json.loads(line)
                content = Record(**content) if isinstance(content, dict) else content
        yield end, content


def _npz(images: Mapping[int, np.ndarray]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for index, image in images.items():
            info = zipfile.ZipInfo(f"{index}.npy")  # its date is fixed: the same images are the same bytes
            info.compress_type = zipfile.ZIP_LZMA
            with archive.open(info, "w") as member:
                npy.write_array(member, np.ascontiguousarray(image), allow_pickle=False)
    return memory.getvalue()
