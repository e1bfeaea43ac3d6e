"""Figure 7: accuracy against settings, from the finished rows of a run that differ in them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure, SubFigure

from hetpure.config import to_dict
from hetpure.errors import ConfigError
from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_line, accuracy_map, pair_norm
from hetpure.runs.read import read_results
from hetpure.runs.results import parse_accuracy, plain_row
from hetpure.studies.finished import FinishedRun
from hetpure.studies.numbers import Measured

USUAL = (("purifier.tau",), ("purifier.t_large", "purifier.t_small"))
"""The keys of the paper's figure."""


def measure(
    run: FinishedRun, rows: Sequence[str], keys: list[str] | None = None, protocol: str = "one-shot"
) -> Measured:
    """Reads settings and accuracies of the rows that differ in nothing but the keys.

    Args:
        run: the run.
        rows: the rows to look at; all where none is named.
        keys: one or two keys, such as ``purifier.tau``; by default the paper's, else those that differ.
        protocol: what counts as right.
    """
    settings = {name: _flat(_row(run, name)) for name in run.compared(rows)}
    accuracies = {(row.method, row.protocol): plain_row(row) for row in read_results(run.folder).rows}
    if not any(of == protocol for _, of in accuracies):
        raise ConfigError(
            f"protocol: found {protocol}, {run.folder} has {', '.join(sorted({p for _, p in accuracies}))}"
        )
    found = [(wanted, _alike(settings, wanted)) for wanted in _wanted(run, settings, keys)]
    panels = [_panel(wanted, names, settings, accuracies, protocol) for wanted, names in found if names]
    if not panels:
        raise ConfigError(f"{run.folder}: no two rows differ in {' and '.join(found[0][0])} alone")
    counts = sorted({p[side]["count"] for panel in panels for p in panel["points"] for side in ("standard", "robust")})
    counts = [count for count in counts if count]
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    attacks = sorted({p["attack"] for panel in panels for p in panel["points"]})
    what = " and ".join(" x ".join(panel["keys"]) for panel in panels)
    grid_size = " and ".join(str(len(panel["points"])) for panel in panels)
    hatched = " Hatched: not in the grid, or not yet run." if any(len(panel["keys"]) == 2 for panel in panels) else ""
    caption = (
        f"Standard and robust accuracy against {what}: {grid_size} rows of the run that differ in nothing else. "
        f"n = {n} images at each point, the same at all, {protocol}; {'; '.join(attacks)}. Bars and brackets: 95 % "
        f"Wilson intervals of one run.{hatched}"
    )
    return Measured({"n": counts, "protocol": protocol, "panels": panels}, caption)


def draw(measured: Measured) -> Figure:
    """A line for each single key, two maps for each pair."""
    panels = measured.numbers["panels"]
    widths = [2.4 if len(panel["keys"]) == 1 else 4.8 for panel in panels]
    width = 7.2 if len(panels) > 1 or widths[0] > 3 else 4.6
    figure, drawing = style.sheet(width, 2.8, measured.caption)
    for part, panel in zip(style.beside(drawing, widths), panels, strict=True):
        _draw_panel(part, panel)
    return figure


def _draw_panel(part: SubFigure, panel: Mapping[str, Any]) -> None:
    points, keys = panel["points"], [key.removeprefix("purifier.") for key in panel["keys"]]
    sides = {side: [parse_accuracy(p[side]) for p in points] for side in ("standard", "robust")}
    if len(keys) == 1:
        accuracy_line(part.subplots(), keys[0], [p["values"][0] for p in points], sides["standard"], sides["robust"])
        return
    attacked = {side: found for side, found in sides.items() if any(a.count for a in found)}
    norm = pair_norm([a for found in attacked.values() for a in found])
    grid = part.subplots(1, len(attacked), squeeze=False, sharey=True)[0]
    for axes, (side, found) in zip(grid, attacked.items(), strict=True):
        cells = {(p["values"][0], p["values"][1]): a for p, a in zip(points, found, strict=True)}
        accuracy_map(axes, (keys[0], keys[1]), cells, f"{side} accuracy, %", norm)
        if axes is not grid[0]:
            axes.set_ylabel("")
    if attacked:
        part.colorbar(style.shades(norm), ax=list(grid), aspect=25)


def _wanted(
    run: FinishedRun, settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str] | None
) -> list[tuple[str, ...]]:
    """What to draw panels of: the keys that are asked for; else the paper's; else those in which the rows differ."""
    if keys is not None:
        if not 1 <= len(keys) <= 2:
            raise ConfigError(f"keys: found {len(keys)} of them, accepted are one or two")
        for key in keys:
            if not any(key in found for found in settings.values()):
                raise ConfigError(f"keys: {key} is no key of these rows, such as purifier.tau")
        return [tuple(keys)]
    if usual := [wanted for wanted in USUAL if _alike(settings, wanted)]:
        return usual
    differing = _differing(settings)
    if not 1 <= len(differing) <= 2:
        found = f"differ in {', '.join(differing)}" if differing else "are all alike"
        raise ConfigError(f"{run.folder}: its rows {found}; this figure needs rows that differ in one or two keys")
    return [tuple(differing)]


def _row(run: FinishedRun, name: str) -> dict[str, Any]:
    return to_dict(run.rows[name])


def _flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; lists as text, so that they can be compared and named."""
    if isinstance(section, Mapping) and section:
        return {k: v for key, value in section.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: section if isinstance(section, int | float | str | None) else json.dumps(section)}


def _alike(settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The largest group of rows that differ in the keys alone, each pair of values once; empty where none does."""
    groups: dict[str, dict[tuple, str]] = {}
    for name, found in settings.items():
        if all(key in found for key in keys):
            rest = json.dumps({k: v for k, v in found.items() if k not in keys}, sort_keys=True)
            groups.setdefault(rest, {}).setdefault(tuple(found[key] for key in keys), name)
    largest = list(max(groups.values(), key=len, default={}).items())
    varied = all(len({values[i] for values, _ in largest}) > 1 for i in range(len(keys)))
    return [name for _, name in largest] if varied else []


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys in which rows with the most common purifier differ."""
    kinds = [found.get("purifier.name") for found in settings.values()]
    kind = max(kinds, key=kinds.count)
    same = [found for found in settings.values() if found.get("purifier.name") == kind]
    names = dict.fromkeys(key for found in same for key in found)
    return [key for key in names if len({json.dumps(found.get(key)) for found in same}) > 1]


def _panel(
    keys: Sequence[str],
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    accuracies: Mapping[tuple[str, str], Mapping[str, Any]],
    protocol: str,
) -> dict[str, Any]:
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    points = []
    for name in names:
        row = accuracies.get((name, protocol), {})
        point = {"row": name, "values": [settings[name][key] for key in keys]}
        point |= {side: row.get(side, nothing) for side in ("standard", "robust")}
        points.append({**point, "attack": row.get("conditions", {}).get("attack", "not run")})
    return {"keys": list(keys), "points": points}
