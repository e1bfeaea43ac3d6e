"""The records of a row in its folder: one JSON line per sample and protocol, and the adversarial images.

``docs/reference/run-folder.md`` describes both. Every process appends to a file of its own, one batch at a time. So a
process that dies loses only the batch in flight, and a later run, with any number of processes, continues with the
samples that have no line yet.

Images are kept as the float32 values that were evaluated, not rounded to 8 bits, as published attacks work on such
values. A batch is one ``.npz`` (LZMA), which ``numpy.load`` reads; because signed steps leave few distinct values, it
takes about 40 to 60 % of the raw bytes (L2: 85 %).
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from hetpure.runs.files import write_whole
from hetpure.runs.records import (
    Expected,
    Record,
    disagreement,
    hash_of_scores,
    parse_line,
    to_line,
    without_scores,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a record file.

    Attributes:
        file: it is in.
        number: in its file, from 1.
        start: in its file, in bytes.
        end: likewise.
        record: without its scores, which are most of a record; None where it is damaged or cut short.
        scores: a hash of them.
        problem: what is wrong with it, in words; None where nothing is, or a kill has cut it short.
    """

    file: Path
    number: int
    start: int
    end: int
    record: Record | None = None
    scores: int = 0
    problem: str | None = None

    def contradicts(self, other: "Line") -> bool:
        """Whether another line of the same sample and protocol says something else."""
        assert self.record is not None and other.record is not None
        return self.scores != other.scores or self.record.outcome() != other.record.outcome()


@dataclass
class _Read:
    """What was read of a file."""

    inode: int
    end: int = 0
    lines: list[Line] = field(default_factory=list)


class RecordStore:
    """The records of one row.

    Args:
        folder: the row's folder; made with the first batch.
        protocols: names of the protocols under which a finished sample has a record.
        rank: this process's number, which names its file.
        expected: what records must agree with; others do not count.
    """

    def __init__(
        self, folder: Path, protocols: Sequence[str] = ("one-shot",), rank: int = 0, expected: Expected | None = None
    ) -> None:
        self.folder, self.protocols, self.rank = folder, tuple(protocols), rank
        self.expected = expected or Expected()
        self.file = folder / f"samples-{rank:03d}.jsonl"
        self._read: dict[Path, _Read] = {}

    def expect(self, expected: Expected) -> None:
        """From now on only records that agree with this count."""
        self.expected = expected
        self._read.clear()

    def for_process(self, rank: int) -> "RecordStore":
        """The same records, appended to by another process."""
        store = RecordStore(self.folder, self.protocols, rank, self.expected)
        store._read = {file: replace(read, lines=read.lines.copy()) for file, read in self._read.items()}
        return store

    @property
    def files(self) -> list[Path]:
        """The record files of all processes."""
        files = (file for file in self.folder.glob("samples-*.jsonl") if file.is_file())
        return sorted(file for file in files if file.stem.removeprefix("samples-").isdecimal())

    def append(self, records: Sequence[Record], images: Mapping[int, np.ndarray] | None = None) -> None:
        """Writes a batch: first its images, then its lines in one write, so that a line never lacks its image.

        The records of a sample come one after the other and name the file of its image: (C, H, W), float32, by index.

        Raises:
            OSError: if the disk is full or the folder cannot be written; what was there before stays whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if images:
            file = self.folder / next(record.image for record in records if record.image is not None)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, _npz(images), file.with_suffix(f".{self.file.stem}.part"))
        text = "".join(map(to_line, records)).encode()
        with self.file.open("ab", buffering=0) as file:
            while text:
                text = text[file.write(text) :]
            os.fsync(file.fileno())

    def image_name(self, images: Iterable[int]) -> str:
        """A file for the images of a batch with these indices, which no record names: a kill may have left it."""
        name = f"adversarial/{next(iter(images)):06d}"
        if not (self.folder / f"{name}.npz").exists():
            return f"{name}.npz"
        taken = {line.record.image for lines in self.lines().values() for line in lines if line.record is not None}
        names = (f"{name}{f'-{number}' if number else ''}.npz" for number in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    def records(self) -> Iterator[Record]:
        """Every record as it is read, whether it counts or not; none is kept.

        Raises:
            OSError: if a file cannot be read.
        """
        for file in self.files:
            with file.open("rb") as handle:
                for text in handle:
                    with contextlib.suppress(ValueError):
                        yield parse_line(text)

    def lines(self) -> dict[Path, list[Line]]:
        """All lines by file, without scores. Of a file that has grown only what is new is read.

        Raises:
            OSError: if a file cannot be read.
        """
        return {file: self._lines_of(file) for file in self.files}

    def read(self) -> list[Record]:
        """``outcomes`` with their scores."""
        return list(self.whole(self.outcomes()))

    def outcomes(self) -> list[Record]:
        """Records of finished samples from all processes, by index and protocol; the first of duplicates counts.

        They have no scores, so that a hundred thousand fit into memory: see ``whole``. Left out are damaged ones, and
        samples whose records contradict each other.

        Raises:
            OSError: if a file cannot be read.
        """
        found = self._finished()
        lines = (found[index][protocol] for index in sorted(found) for protocol in self.protocols)
        return [line.record for line in lines if line.record is not None]

    def whole(self, outcomes: Iterable[Record]) -> Iterator[Record]:
        """Records with their scores, which are read from the files again, one by one; without those that are gone.

        Raises:
            OSError: if a file cannot be read.
        """
        found, _ = self._samples()
        with contextlib.ExitStack() as opened:
            handles: dict[Path, BinaryIO] = {}
            for outcome in outcomes:
                line = found.get(outcome.index, {}).get(outcome.protocol)
                if line is None:  # another process has mended the files since
                    continue
                if line.file not in handles:
                    handles[line.file] = opened.enter_context(line.file.open("rb"))
                handles[line.file].seek(line.start)
                yield parse_line(handles[line.file].read(line.end - line.start))

    def problems(self) -> list[str]:
        """What of the records does not count, or has no image any more; one line for each file."""
        texts, images = [], set[str]()
        for file, lines in self.lines().items():
            images |= {line.record.image for line in lines if line.record is not None and line.record.image is not None}
            if damaged := [f"line {line.number} {line.problem}" for line in lines if line.problem is not None]:
                texts.append(f"{file.name}: {some(damaged)}; such records do not count")
        texts += [f"sample {index}: contradictory records, which do not count" for index in sorted(self._samples()[1])]
        texts += [f"{name} is missing" for name in sorted(images) if not (self.folder / name).is_file()]
        return [f"{self.folder.name}/{text}" for text in texts]

    def done(self) -> set[int]:
        """Indices of the samples that have all their records."""
        return {*self._finished()}

    def adversarial(self, record: Record) -> np.ndarray | None:
        """A sample's adversarial image (C, H, W) in [0, 1], bit for bit as it was evaluated.

        None where it has none, or the file is missing or damaged.
        """
        return None if record.image is None else load_images(self.folder / record.image, [record.index])[record.index]

    def _finished(self) -> dict[int, dict[str, Line]]:
        """The lines of the samples that have all their records, which do not contradict each other."""
        (found, torn), protocols = self._samples(), set(self.protocols)
        return {index: lines for index, lines in found.items() if protocols <= lines.keys() and index not in torn}

    def _samples(self) -> tuple[dict[int, dict[str, Line]], set[int]]:
        """The first line of each sample and protocol, and the samples whose lines contradict each other."""
        found: dict[int, dict[str, Line]] = {}
        torn = set[int]()
        for line in (line for lines in self.lines().values() for line in lines):
            if (record := line.record) is not None:
                first = found.setdefault(record.index, {}).setdefault(record.protocol, line)
                if first is not line and first.contradicts(line):
                    torn.add(record.index)
        return found, torn

    def _lines_of(self, file: Path) -> list[Line]:
        with file.open("rb") as handle:
            state = os.fstat(handle.fileno())
            read = self._read.get(file)
            if read is None or read.inode != state.st_ino or state.st_size < read.end:
                read = self._read[file] = _Read(state.st_ino)
            handle.seek(read.end)
            for text in handle:
                line = Line(file, len(read.lines) + 1, read.end, read.end + len(text))
                if not text.endswith(b"\n"):
                    return [*read.lines, line]
                before = read.lines[-1].record if read.lines else None
                read.lines.append(self._parsed(line, text[:-1], before))
                read.end = line.end
        return read.lines.copy()

    def _parsed(self, line: Line, text: bytes, before: Record | None) -> Line:
        try:
            record = parse_line(text)
            problem = disagreement(record, self.expected)
        except ValueError as error:
            return replace(line, problem=str(error))
        if problem is not None:
            return replace(line, problem=problem)
        return replace(line, record=without_scores(record, before), scores=hash_of_scores(record))


def load_images(file: Path, indices: Iterable[int]) -> dict[int, np.ndarray | None]:
    """The adversarial images with these indices in a batch's file; None for each that cannot be read.

    Only what an image can be is loaded: (C, H, W), float32, finite, in [0, 1].
    """
    images: dict[int, np.ndarray | None] = dict.fromkeys(indices)
    try:
        with np.load(file, allow_pickle=False) as archive:
            for index in images:
                with contextlib.suppress(Exception):
                    image = archive[str(index)]
                    if image.dtype == np.float32 and image.ndim == 3 and ((image >= 0) & (image <= 1)).all():
                        images[index] = image
    except Exception:  # zipfile, lzma, numpy and struct raise a dozen types for a damaged file
        pass
    return images


def some(texts: Sequence[str]) -> str:
    """The first of some texts, and how many more there are."""
    return texts[0] + (f", and {len(texts) - 1} more" if len(texts) > 1 else "")


def _npz(images: Mapping[int, np.ndarray]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for index, image in images.items():
            info = zipfile.ZipInfo(f"{index}.npy")  # its date is fixed: the same images are the same bytes
            info.compress_type = zipfile.ZIP_LZMA
            with archive.open(info, "w") as member:
                npy.write_array(member, np.ascontiguousarray(image), allow_pickle=False)
    return memory.getvalue()
