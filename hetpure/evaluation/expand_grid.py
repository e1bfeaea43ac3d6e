"""A config's ``grid`` section: keys and the values that each takes; every combination is a row.

    grid:
      purifier.t_large: [0.2, 0.3]
      purifier.t_small: [0.05, 0.1]

Records, resuming, tables and checks only see the rows.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from hetpure.config import merge
from hetpure.config.schema import SECTION
from hetpure.errors import ConfigError, require
from hetpure.runs.names import combinations, text

SECTIONS = ("classifier", "denoiser", "purifier", "attack", "ensemble")
"""Sections that a row, or a column of a table, may have of its own."""

MOST = 10_000
"""Combinations of a grid."""


def swept(grid: Mapping[str, Any], shared: Collection[str]) -> dict[str, list[Any]]:
    """A ``grid`` section as dotted keys to lists of values, checked.

    Overrides of the command line (``grid.purifier.tau=[0.5,0.7]``) are nested; later ones replace earlier ones.
    """
    result: dict[str, list[Any]] = {}
    for key, values in _flat(grid):
        section = key.split(".")[0]
        if section in shared:
            raise ConfigError(f"grid.{key}", f"{section} is the same for all rows and cannot be swept; set it once")
        if values is None:
            result.pop(key, None)
            continue
        require(isinstance(values, list) and bool(values), f"grid.{key}", values, "a list of values")
        for value in values if key in SECTIONS else ():
            accepted = f"a list whose values are each {SECTION}"
            require(isinstance(value, Mapping), f"grid.{key}", value, accepted)
        names = [text(value) for value in values]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"grid.{key}", f"{repeated[0]} is there twice")
        result[key] = values
    count = math.prod(map(len, result.values()))
    require(count <= MOST, "grid", f"a grid of {count} combinations", f"at most {MOST}")
    return result


def combination_rows(grid: Mapping[str, list[Any]], rows: Collection[str]) -> dict[str, dict[str, Any]]:
    """The changes of each combination, by its row's name.

    A row of the config that has the combination's name stays as it is: a resolved config is its own expansion.
    """
    values = combinations(grid) if grid else {}
    return {name: _nested(chosen) for name, chosen in values.items() if name not in rows}


def refused_combination(grid: Collection[str], error: ConfigError) -> bool:
    """Whether a purifier, or an attack process, refuses how several of the swept values go together.

    Such a combination has no row. A value that is refused by itself is an error.
    """
    swept_names = {_name(key) for key in grid if key.startswith(("purifier.", "attack.process."))}
    is_values = error.key.startswith(("purifier.", "attack.process."))
    return is_values and len(swept_names & {_name(key) for key in (error.key, *error.related)}) > 1


def _name(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def _flat(grid: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in grid.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat
