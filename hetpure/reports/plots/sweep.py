"""Plots of accuracy over swept keys: of one run's grid, or of many runs that share a grid."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from hetpure.errors import ConfigError
from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_panel
from hetpure.runs.names import combinations, labels
from hetpure.runs.read import RunFolder, read_results, read_settings, row_settings
from hetpure.runs.results import TableRow

FIGURE = "sweep.png"


@dataclass(frozen=True)
class Point:
    """One combination of values, by swept key, and the one-shot row measured with it."""

    values: Mapping[str, Any]
    result: TableRow


def folder_points(folders: Sequence[Path], keys: Sequence[str]) -> list[Point]:
    """The rows of finished runs, by the values that some keys have in their configs.

    Raises:
        ConfigError: for a folder without results, a key that its config lacks, or two rows with the same values.
    """
    points: dict[str, Point] = {}
    for folder in folders:
        config = read_settings(folder)
        settings = row_settings(config)
        for row in (row for row in read_results(folder).rows if row.protocol == "one-shot" and row.images):
            values = {key: _value(settings.get(row.method, config), key, folder) for key in keys}
            name = json.dumps(values, sort_keys=True)
            if name in points:
                raise ConfigError(str(folder), f"its row {row.method} has the same values as another row: {name}")
            points[name] = Point(values, row)
    return list(points.values())


def draw(points: Sequence[Point], others: Sequence[TableRow], title: str, file: Path) -> None:
    """Draws accuracy over the keys of points, at least one, beside ``others``: one-shot rows outside the grid.

    Raises:
        OSError: if the file cannot be written.
    """
    rows = [point.result for point in points]
    names, values = list(labels(points[0].values).values()), [tuple(point.values.values()) for point in points]
    standard, robust = [row.standard for row in rows], [row.robust for row in rows]
    width, height = 6.4, 4.0
    if len(names) == 2:
        columns, lines = (len({str(pair[i]) for pair in values}) for i in (0, 1))
        width, height = 2 * (columns + 1.6), 0.75 * lines + 1.5
    figure, part = style.sheet(width, height, _caption(rows))
    part.suptitle(title, fontsize=9)
    with mpl.rc_context(style.SETTINGS):
        accuracy_panel(part, names, values, standard, robust, {row.method: row.robust for row in others})
        figure.savefig(file)


def draw_grid(run: RunFolder) -> bool:
    """Draws ``sweep.png`` for a run with a grid; False if no combination has a result.

    Raises:
        OSError: if it cannot be written.
    """
    rows = {row.method: row for row in run.report.rows if row.protocol == "one-shot" and row.images}
    grid = combinations(run.config["grid"])
    points = [Point(values, rows.pop(name)) for name, values in grid.items() if name in rows]
    if points:
        draw(points, list(rows.values()), run.report.title, run.path / FIGURE)
    return bool(points)


def draw_folders(folders: Sequence[Path], keys: Sequence[str], file: Path) -> None:
    """Draws finished runs over some keys of their configs.

    Raises:
        ConfigError: see ``folder_points``; or if no row has a result.
        OSError, ValueError: if the file cannot be written, or its suffix is not that of a picture.
    """
    points = folder_points(folders, keys)
    if not points:
        raise ConfigError(" ".join(map(str, folders)), "no row of these folders has a result")
    draw(points, [], f"{len(points)} evaluations", file)


def _caption(rows: Sequence[TableRow]) -> str:
    counts = sorted({row.images for row in rows})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    names = {"attack": "", "gradients": "gradients ", "eot": "EOT ", "ensemble": "S "}
    values = {name: {getattr(row.conditions, name) for row in rows} for name in names}
    common = [f"{label}{values[name].pop()}" for name, label in names.items() if len(values[name]) == 1]
    return f"n = {images} images a point, 95 % Wilson intervals; {'; '.join(common)}"


def _value(settings: Mapping[str, Any], key: str, folder: Path) -> Any:
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"--over {key}", f"the config of {folder} has no such key")
        value = value[part]
    return value
