"""What a run folder calls things: rows, protocols, and the combinations of a grid."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from hetpure.errors import ConfigError

RESERVED = ("honesty", "adversarial", "figures", "processes", "wandb")
"""Folders that a run and its rows have for other things."""

LABELS = {"ensemble.size": "S", "attack.eot": "EOT", "attack.steps": "iterations"}
"""What the table and the paper call these keys; others go by the last part of their name."""

Values = dict[str, Any]
"""A combination: key to value."""


def check_row_name(name: str) -> None:
    """A row's name is its folder, in the run's: one or more parts.

    Raises:
        ConfigError: for another name.
    """
    for part in name.split("/"):
        if part in ("", ".", "..", *RESERVED) or "\0" in part:
            raise ConfigError(
                f"rows: found the name {name!r}, accepted are one or more parts joined by /, none of them empty, ., .. "
                f"or {', '.join(RESERVED)}"
            )


def protocol_names(resubmissions: int = 1, votes: int = 0) -> list[str]:
    """The names of a run's protocols, one-shot first.

    Args:
        resubmissions: N of best-of-N; 1 leaves it out.
        votes: V of the majority vote of single purifications; 0 leaves it out.
    """
    best = [f"best of {resubmissions}"] if resubmissions > 1 else []
    return ["one-shot", *best, *([f"majority of {votes}"] if votes else [])]


def combinations(grid: Mapping[str, list[Any]]) -> dict[str, Values]:
    """Every combination of a grid's values, by its row's name."""
    names = labels(grid)
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return {", ".join(f"{names[key]}={text(value)}" for key, value in values.items()): values for values in every}


def labels(keys: Collection[str]) -> dict[str, str]:
    """A short name for each of some dotted keys; the whole key where two would be called the same."""
    short = {key: LABELS.get(key, key.rsplit(".", 1)[-1]) for key in keys}
    called = list(short.values())
    return {key: name if called.count(name) == 1 else key for key, name in short.items()}


def text(value: Any) -> str:
    """A value in a row's name, which is a folder's too."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ",".join(map(text, value))
    return "null" if value is None else str(value).replace("/", "_")
