"""A config's ``grid`` section: keys and the values that each takes; every combination is a row.

    grid:
      purifier.t_large: [0.2, 0.3]
      purifier.t_small: [0.05, 0.1]

Rows are all that an evaluation knows: records, resuming, tables and checks need no word of grids.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from torch import nn

from hetpure.config import merge
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.purification.registry import build_purifier, complete_settings, surrogate_settings
from hetpure.runs.names import Values, combinations, text
from hetpure.schedule import Schedule

SECTIONS = ("classifier", "denoiser", "purifier", "ensemble", "attack", "protocols")
"""Keys whose values are sections themselves."""


def expand_grid(raw: Mapping[str, Any], shared: Collection[str]) -> dict[str, Any]:
    """The raw config with a row for each combination of its ``grid``, after the rows that it has.

    A row that has the combination's name already stays as it is, so that a resolved config is its own expansion.
    Combinations that the purifier refuses for how the swept values go together have no row: see ``left_out``.

    Args:
        raw: the raw config; without ``grid`` its rows are what they were.
        shared: sections that are the same for all rows.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    # rows=null and grid=null take away what an included file has.
    raw = {key: value for key, value in raw.items() if key not in ("rows", "grid") or value is not None}
    if not raw.get("grid"):
        return raw
    grid = swept(raw["grid"], shared)
    table = raw.get("table")
    if isinstance(table, Mapping) and table.get("columns"):
        raise ConfigError("grid: does not go together with table.columns; take away one of them")
    rows = dict(raw.get("rows") or {})
    missing = _combinations(grid, rows)
    added = {name: nested(values) for name, values in missing.items() if _refusal(raw, values) is None}
    if not rows and not added:
        raise ConfigError("grid: the purifier refuses every combination of these values")
    return {**raw, "grid": grid, "rows": {**rows, **added}}


def left_out(config: Mapping[str, Any]) -> list[str]:
    """A line for each combination of a complete config's grid that has no row, with the purifier's reason.

    Args:
        config: the complete config, as plain containers.
    """
    missing = _combinations(config["grid"], config["rows"])
    reasons = {name: _refusal(config, values) for name, values in missing.items()}
    return [f"grid: {name} is left out: {reason}" for name, reason in reasons.items() if reason is not None]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        change: dict[str, Any] = {last: value}
        for parent in reversed(parents):
            change = {parent: change}
        result = merge(result, change)
    return result


def swept(grid: Any, shared: Collection[str]) -> dict[str, list[Any]]:
    """A ``grid`` section as dotted keys to lists of values, checked.

    Overrides of the command line (``grid.purifier.tau=[0.5,0.7]``) come nested; later ones replace earlier ones.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    if not isinstance(grid, Mapping):
        raise ConfigError(f"grid: found {grid!r}, accepted is a section of keys, such as purifier.tau: [0.5, 0.7]")
    found: dict[str, list[Any]] = {}
    for key, values in _flat(grid):
        section = key.split(".")[0]
        if section in (*shared, "rows", "grid"):
            raise ConfigError(f"grid.{key}: {section} is the same for all rows and cannot be swept; set it once")
        if values is None:
            found.pop(key, None)
            continue
        if not isinstance(values, list) or not values:
            raise ConfigError(f"grid.{key}: found {values!r}, accepted is a list of values")
        plain = [value for value in values if not isinstance(value, Mapping)]
        if key in SECTIONS and plain:
            raise ConfigError(f"grid.{key}: found {plain[0]!r}, accepted is a list of sections of keys")
        names = [text(value) for value in values]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"grid.{key}: {twice[0]} is there twice")
        found[key] = values
    return found


def _flat(grid: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in grid.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat


def _combinations(grid: Mapping[str, list[Any]], rows: Collection[str]) -> dict[str, Values]:
    return {name: values for name, values in combinations(grid).items() if name not in rows} if grid else {}


class _NetworkError(Exception):
    """A constructor asked a network that is not there: its numbers were to its liking."""


class _Absent(nn.Module):
    """Stands for a network that is not loaded yet."""

    schedule = Schedule()

    def __getattr__(self, name: str) -> Any:
        raise _NetworkError(name)


def _refusal(raw: Mapping[str, Any], values: Values) -> str | None:
    """Why the purifier, or the attack process, refuses how these values go together.

    None where it does not, and where it is one value alone that it refuses: that is an error, said in its own place.
    """
    row = merge(raw, nested(values))
    defense = row.get("purifier") or {}
    process = (row.get("attack") or {}).get("process") or {}
    error = _objection(lambda: complete_settings(defense), "purifier") or _objection(
        lambda: surrogate_settings(complete_settings(defense), process), "attack.process"
    )
    names = {key.rsplit(".", 1)[-1] for key in values if key.startswith(("purifier.", "attack.process."))}
    return error if error is not None and len(names & _words(error)) > 1 else None


def _objection(settings: Callable[[], dict[str, Any]], where: str) -> str | None:
    """What a purifier's constructor has to say against its numbers, which it checks before it asks its networks."""
    try:
        build_purifier(settings(), cast(Classifier, _Absent()), cast(Denoiser, _Absent()), where)
    except ConfigError as error:
        return str(error)
    except _NetworkError:
        pass
    return None


def _words(message: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in message).split())
