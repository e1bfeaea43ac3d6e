"""What a figure shows, as numbers in files: drawing again needs no computing again, here or elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hetpure.runs.files import write_whole


@dataclass(frozen=True)
class Measured:
    """A figure's content.

    Attributes:
        numbers: what is plotted, as JSON has it.
        caption: what is seen, and n.
        arrays: images and other large arrays, by name.
    """

    numbers: dict[str, Any]
    caption: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def plural(count: int, thing: str) -> str:
    """``1 draw``, ``3 draws``."""
    return f"{count} {thing}{'s' * (count != 1)}"


def keep(measured: Measured, made_from: Mapping[str, Any], stem: Path) -> list[Path]:
    """Writes STEM.json, and STEM.npz where there are arrays.

    Args:
        measured: what to keep.
        made_from: everything that it depends on; ``kept`` asks for the same.
        stem: where.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    if measured.arrays:
        files.append(stem.with_name(f"{stem.name}.npz"))
        part = stem.with_name(f"part-{stem.name}.npz")
        np.savez_compressed(part, **measured.arrays)  # pyright: ignore[reportArgumentType]
        part.replace(files[0])
    content = {"made_from": dict(made_from), "caption": measured.caption, "numbers": measured.numbers}
    # Last, so that a JSON file never lacks its arrays.
    files.insert(0, stem.with_name(f"{stem.name}.json"))
    write_whole(files[0], json.dumps(content, allow_nan=False))
    return files


def kept(made_from: Mapping[str, Any], stem: Path) -> Measured | None:
    """What ``keep`` wrote, if it was made from the same; else None."""
    try:
        content = json.loads(stem.with_name(f"{stem.name}.json").read_text())
        if content["made_from"] != json.loads(json.dumps(dict(made_from))):
            return None
        file = stem.with_name(f"{stem.name}.npz")
        arrays: dict[str, np.ndarray] = {}
        if file.is_file():
            with np.load(file, allow_pickle=False) as found:
                arrays = dict(found)
        return Measured(content["numbers"], content["caption"], arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def files_at(stem: Path) -> list[Path]:
    """The files of ``keep`` that are there."""
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "npz")]
    return [file for file in files if file.is_file()]
