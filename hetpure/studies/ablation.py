"""Figure 7: accuracy against settings, from the rows of a run that differ in them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from hetpure.errors import ConfigError, require
from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_panel
from hetpure.runs.results import parse_accuracy, plain_row, table_rows
from hetpure.studies.figure import Measured, RunFigure
from hetpure.studies.finished import FinishedRun

PAPER = (("purifier.tau",), ("purifier.t_large", "purifier.t_small"))
"""The keys of the paper's figure."""

SIDES = ("standard", "robust")


@dataclass
class Ablation(RunFigure):
    """Accuracy against tau, or t_large x t_small, or other keys."""

    keys: list[str] | None = None  # one or two; by default the paper's, else those in which the rows differ
    protocol: str = "one-shot"

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        settings = {name: flatten(run.rows[name]) for name in run.select(rows)}
        lines = {(line.method, line.protocol): line for method in run.saved.methods for line in method.rows}
        protocols = sorted({protocol for _, protocol in lines})
        require(self.protocol in protocols, "protocol", self.protocol, ", ".join(protocols))
        choices = self._choices(run, settings)
        panels, shown = [], []
        for keys in choices:
            points = []
            for name in comparable_rows(settings, keys):
                line = lines.get((name, self.protocol)) or table_rows(name, [], 0, [self.protocol])[0]
                point = {"row": name, "values": [settings[name][key] for key in keys]}
                point |= {side: plain_row(line)[side] for side in SIDES}
                points.append({**point, "attack": line.conditions.attack if line.images else "not run"})
            if points:
                panels.append({"keys": list(keys), "points": points})
                shown += points
        if not panels:
            raise ConfigError(str(run.saved.path), f"has no two rows that differ in {' and '.join(choices[0])} alone")
        names = {point["row"] for point in shown}
        records = [method.records for method in run.saved.methods if method.name in names]
        judged = [[r.index for r in of_row if r.protocol == self.protocol and r.failure is None] for of_row in records]
        finished = {frozenset(indices) for indices in judged if indices}
        counts = sorted({len(images) for images in finished})
        n = " to ".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "no"
        same = "the same at all" if len(finished) <= 1 else "not the same at all"
        caption = (
            f"Standard and robust accuracy against {' and '.join(' x '.join(panel['keys']) for panel in panels)}: "
            f"{' and '.join(str(len(panel['points'])) for panel in panels)} rows of the run that differ in nothing "
            f"else. n = {n} images at each point, {same}, {self.protocol}; "
            f"{'; '.join(sorted({point['attack'] for point in shown}))}. Bars and brackets: "
            "95 % Wilson intervals of one run."
            f"{' Hatched: not in the grid, or not yet run.' * any(len(panel['keys']) == 2 for panel in panels)}"
        )
        return Measured({"n": counts, "protocol": self.protocol, "panels": panels}, caption)

    def draw(self, measured: Measured) -> Figure:
        panels = measured.numbers["panels"]
        widths = [2.4 if len(panel["keys"]) == 1 else 4.8 for panel in panels]
        figure, drawing = style.sheet(4.6 if widths == [2.4] else 7.2, 2.8, measured.caption)
        for part, panel in zip(style.beside(drawing, widths), panels, strict=True):
            keys, points = [key.removeprefix("purifier.") for key in panel["keys"]], panel["points"]
            standard, robust = ([parse_accuracy(point[side]) for point in points] for side in SIDES)
            accuracy_panel(part, keys, [point["values"] for point in points], standard, robust)
        return figure

    def _choices(self, run: FinishedRun, settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
        """Keys to draw panels of: the given ones; else the paper's; else those in which the rows differ."""
        if self.keys is not None:
            require(1 <= len(self.keys) <= 2, "keys", self.keys, "one or two")
            known = {key for row in settings.values() for key in row}
            for key in self.keys:
                require(key in known, "keys", key, "a key of these rows, such as purifier.tau")
            return [tuple(self.keys)]
        if usual := [keys for keys in PAPER if comparable_rows(settings, keys)]:
            return usual
        differing = differing_keys(settings)
        if not 1 <= len(differing) <= 2:
            how = f"differ in {', '.join(differing)}" if differing else "are all alike"
            problem = f"its rows {how}; this figure needs rows that differ in one or two keys"
            raise ConfigError(str(run.saved.path), problem)
        return [tuple(differing)]


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; lists as text, so that they can be compared and named."""
    if isinstance(section, Mapping) and section:
        parts = (flatten(value, f"{prefix}.{key}".lstrip(".")) for key, value in section.items())
        return {key: value for part in parts for key, value in part.items()}
    return {prefix: section if isinstance(section, int | float | str | None) else json.dumps(section)}


def comparable_rows(settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The largest group of rows that differ in the keys alone, each pair of values once; empty where none does."""
    groups: dict[str, dict[tuple, str]] = {}
    for name, row in settings.items():
        if all(key in row for key in keys):
            rest = json.dumps({k: v for k, v in row.items() if k not in keys}, sort_keys=True)
            groups.setdefault(rest, {}).setdefault(tuple(row[key] for key in keys), name)
    largest = max(groups.values(), key=len, default={})
    varied = all(len({values[i] for values in largest}) > 1 for i in range(len(keys)))
    return list(largest.values()) if varied else []


def differing_keys(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys in which the rows with the most common purifier differ."""
    kinds = [row.get("purifier.name") for row in settings.values()]
    kind = max(kinds, key=kinds.count)
    same = [row for row in settings.values() if row.get("purifier.name") == kind]
    keys = dict.fromkeys(key for row in same for key in row)
    return [key for key in keys if len({json.dumps(row.get(key)) for row in same}) > 1]
