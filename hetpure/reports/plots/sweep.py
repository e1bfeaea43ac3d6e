"""Accuracy over swept keys: the figure of one run's grid, or of many runs that shared a grid out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetpure.errors import ConfigError
from hetpure.reports.plots.figure import draw_heat_map, draw_line
from hetpure.runs.names import combinations, labels
from hetpure.runs.read import RunFolder, read_results, read_settings, row_settings
from hetpure.runs.results import TableRow

FIGURE = "sweep.png"


@dataclass(frozen=True)
class Point:
    """What one combination of values led to.

    Attributes:
        values: swept key to value.
        result: the one-shot line of its row.
    """

    values: Mapping[str, Any]
    result: TableRow


def folder_points(folders: Sequence[Path], keys: Sequence[str]) -> list[Point]:
    """The rows of finished runs, by what their configs say of some keys.

    Raises:
        ConfigError: for a folder without results, a key that its config has not, or two rows with the same values.
    """
    found: dict[str, Point] = {}
    for folder in folders:
        config, lines = read_settings(folder), read_results(folder).rows
        settings_of = row_settings(config)
        for line in lines:
            if line.protocol != "one-shot" or not line.images:
                continue
            settings = settings_of.get(line.method, config)
            values = {key: _value(settings, key, folder) for key in keys}
            name = json.dumps(values, sort_keys=True)
            if name in found:
                raise ConfigError(f"{folder}: {line.method}: another row has the same values: {name}")
            found[name] = Point(values, line)
    return list(found.values())


def draw(points: Sequence[Point], others: Sequence[TableRow], title: str, file: Path) -> None:
    """One key: a line; two: a heat map; more: the combinations side by side.

    Args:
        points: what was found.
        others: one-shot lines of rows outside the grid.
        title: headline.
        file: where to.

    Raises:
        OSError: where it cannot be written.
    """
    keys = list(points[0].values)
    called = labels(keys)
    pairs = [(point.result.standard, point.result.robust) for point in points]
    caption = _caption([point.result for point in points])
    if len(keys) == 2:
        values = [(point.values[keys[0]], point.values[keys[1]]) for point in points]
        draw_heat_map((called[keys[0]], called[keys[1]]), list(zip(values, pairs, strict=True)), title, caption, file)
        return
    if len(keys) == 1:
        label, values = called[keys[0]], [point.values[keys[0]] for point in points]
    else:
        label = ", ".join(called.values())
        values = [", ".join(str(value) for value in point.values.values()) for point in points]
    rest = {line.method: (line.standard, line.robust) for line in others}
    draw_line(label, list(zip(values, pairs, strict=True)), rest, title, caption, file)


def draw_grid(run: RunFolder) -> bool:
    """Draws the figure of a run with a grid, ``sweep.png`` in its folder; False where nothing has a result.

    Raises:
        OSError: where it cannot be written.
    """
    results = {row.method: row for row in run.report.rows if row.protocol == "one-shot" and row.images}
    values = combinations(run.config["grid"])
    points = [Point(of, results.pop(name)) for name, of in values.items() if name in results]
    if points:
        draw(points, list(results.values()), run.report.title, run.path / FIGURE)
    return bool(points)


def draw_folders(folders: Sequence[Path], keys: Sequence[str], file: Path) -> None:
    """The figure of finished runs over one or two keys of their configs.

    Raises:
        ConfigError: see ``folder_points``; or where no row has a result.
        OSError, ValueError: where the file cannot be written, or its suffix is no picture format.
    """
    points = folder_points(folders, keys)
    if not points:
        raise ConfigError("no row of these folders has a result")
    draw(points, [], f"{len(points)} evaluations", file)


def _caption(lines: Sequence[TableRow]) -> str:
    counts = sorted({line.images for line in lines})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = {
        "": [line.conditions.attack for line in lines],
        "gradients ": [line.conditions.gradients for line in lines],
        "EOT ": [line.conditions.eot for line in lines],
        "S ": [line.conditions.ensemble for line in lines],
    }
    alike = [f"{name}{found[0]}" for name, found in parts.items() if len(set(found)) == 1]
    return f"n = {images} images a point, 95 % Wilson intervals; {'; '.join(alike)}"


def _value(settings: Mapping[str, Any], key: str, folder: Path) -> Any:
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"--over {key}: the config of {folder} has no such key")
        value = value[part]
    return value
