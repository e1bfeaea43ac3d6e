"""Reads the file that an offline W&B run leaves, record by record."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class LoggedRun:
    """What a run logged: config, history lines, last values, and the folder of its files."""

    folder: Path
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def keys(self) -> set[str]:
        return {key for line in self.history for key in line}

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The history lines that have a key."""
        return [line for line in self.history if key in line]

    def last(self, key: str) -> Any:
        return self.lines(key)[-1][key]

    def media(self, key: str) -> list[Path]:
        """The files of the images under a key."""
        return [self.folder / "files" / name for line in self.history for name in line.get(f"{key}/filenames", [])]


def read_run(output: Path) -> LoggedRun:
    """The one offline run in an evaluation's folder."""
    (file,) = output.glob("wandb/offline-run-*/run-*.wandb")
    run = LoggedRun(file.parent)
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.project = record.run.display_name, record.run.project
        kinds = {"run": record.run.config.update, "config": record.config.update, "history": record.history.item}
        items = kinds.get(kind or "", ())
        found = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        if kind in ("run", "config"):
            run.config |= found
        elif kind == "history":
            run.history.append(found)
    return run


def records(file: Path) -> Iterator[Record]:
    """Seven bytes of header, then blocks of 32 KiB: parts of records, each with checksum, length and kind."""
    data, at, parts = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        room = BLOCK - at % BLOCK
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        chunk = data[at + 7 : at + 7 + length]
        at += 7 + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
