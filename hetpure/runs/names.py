"""Names in a run folder: of rows, of protocols, and of the combinations of a grid."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from hetpure.errors import ConfigError, shorten

RESERVED = (
    "honesty", "adversarial", "figures", "processes", "wandb",
    "run.json", "config.yaml", "content.yaml", "verification.json", "report.html", "sweep.png", "samples.lock",
    "errors.txt",
    *(f"samples.{suffix}" for suffix in ("npz", "png")),
    *(f"pictures.{suffix}" for suffix in ("npz", "png")),
    *(f"{table}.{suffix}" for table in ("results", "table") for suffix in ("json", "csv", "md", "tex")),
)  # fmt: skip
"""Names of other folders, and of files, in the folder of a run or a row."""

LONGEST = 255
"""Bytes of the longest name of a folder, and so of a part of a row's name."""

VARIANTS = {
    "more_steps": "more iterations",
    "more_eot": "more EOT",
    "larger_eps": "larger eps",
    "huge_eps": "huge eps",
    "random_noise": "random noise",
    "transfer": "transfer from the undefended classifier",
}
"""The honesty checks' other attacks, by the name of their folder."""

LABELS = {"ensemble.size": "S", "attack.eot": "EOT", "attack.steps": "iterations"}
"""The paper's and the table's names for these keys; others are called by their last part."""


def default_row_name(purifier: str) -> str:
    """The name of the only row of a config without rows: its purifier's, or the class of ``FILE.py:Class``."""
    return purifier.rpartition(":")[2]


def check_row_name(name: str) -> None:
    """Checks the name of a row, which is the path of its folder in the run's: one or more parts.

    Raises:
        ConfigError: for any other name.
    """
    for part in name.split("/"):
        is_file = part in RESERVED or (part.startswith("samples-") and part.endswith(".jsonl"))
        if is_file or part in ("", ".", "..") or not part.isprintable() or len(part.encode()) > LONGEST:
            accepted = f"one or more parts of 1 to {LONGEST} bytes joined by /, none . or .. or used by run folders"
            raise ConfigError("rows", f"the name {shorten(repr(name), 100)} cannot be used", accepted=accepted)


def protocol_names(resubmissions: int = 1, votes: int = 0) -> list[str]:
    """The names of a run's protocols: one-shot, best of N submissions (N > 1), majority of V purifications (V > 0)."""
    names = ["one-shot"]
    if resubmissions > 1:
        names.append(f"best of {resubmissions}")
    if votes:
        names.append(f"majority of {votes}")
    return names


def combinations(grid: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """All combinations of a grid's values, key to value, by the names of their rows."""
    names = labels(grid)
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return {", ".join(f"{names[key]}={text(value)}" for key, value in values.items()): values for values in every}


def labels(keys: Collection[str]) -> dict[str, str]:
    """A short name for each dotted key; the whole key if two short names would be the same."""
    short = {key: LABELS.get(key, key.rsplit(".", 1)[-1]) for key in keys}
    every = list(short.values())
    return {key: name if every.count(name) == 1 else key for key, name in short.items()}


def text(value: Any) -> str:
    """A value as part of a row's name, which is also a folder's."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ",".join(map(text, value))
    return "null" if value is None else str(value).replace("/", "_")
