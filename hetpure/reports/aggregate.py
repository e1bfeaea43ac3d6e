"""Several runs as one table: mean and standard deviation over seeds, as the paper reports three runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetpure.errors import ConfigError
from hetpure.runs.claim import ALWAYS_FREE, differences
from hetpure.runs.read import read_results, read_settings
from hetpure.runs.results import TableRow

FREE = (*ALWAYS_FREE, "seed", "pictures", "threads", "data.batch_size", "data.root", "honesty.images")


@dataclass(frozen=True)
class Spread:
    """Accuracies of several runs, in 0..1.

    Attributes:
        mean: over runs.
        deviation: their sample standard deviation (n - 1 in the denominator).
        runs: how many.
    """

    mean: float
    deviation: float
    runs: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f}"


def aggregate(folders: Sequence[Path]) -> dict[tuple[str, str], dict[str, Spread | None]]:
    """``standard`` and ``robust`` of each (method, protocol) over finished runs.

    Args:
        folders: run folders that differ in their seed alone.

    Raises:
        ConfigError: for fewer than two runs, a folder that is no finished run, or runs that cannot be one experiment.
    """
    if len(folders) < 2:
        raise ConfigError("a mean and a standard deviation need two runs or more")
    configs = [read_settings(folder) for folder in folders]
    tables = [read_results(folder).rows for folder in folders]
    seeds: dict[Any, Path] = {}
    for folder, config in zip(folders, configs, strict=True):
        if config["seed"] in seeds:
            raise ConfigError(f"{folder}: has the seed {config['seed']}, as {seeds[config['seed']]} has")
        seeds[config["seed"]] = folder
        changes = differences(configs[0], config, FREE)
        if changes:
            raise ConfigError(f"{folder}: is another experiment than {folders[0]} ({'; '.join(changes[:4])})")
    whole = [[_whole(row, folder) for row in rows] for folder, rows in zip(folders, tables, strict=True)]
    names = [[(row.method, row.protocol) for row in rows] for rows in whole]
    if any(other != names[0] for other in names):
        raise ConfigError("the runs' tables have other methods or protocols")
    return {
        name: {side: _spread([getattr(rows[i], side).value for rows in whole]) for side in ("standard", "robust")}
        for i, name in enumerate(names[0])
    }


def markdown(found: dict[tuple[str, str], dict[str, Spread | None]], runs: int) -> str:
    """The table as people read it."""
    lines = [f"{runs} runs, mean ± standard deviation", ""]
    lines += ["| method | protocol | standard, % | robust, % |", "| --- | --- | --- | --- |"]
    for (method, protocol), sides in found.items():
        lines.append(f"| {method} | {protocol} | {sides['standard'] or '-'} | {sides['robust'] or '-'} |")
    return "\n".join(lines)


def _whole(row: TableRow, folder: Path) -> TableRow:
    if row.images + row.failed < row.total:
        raise ConfigError(f"{folder}: is not finished: {row.method} has {row.images} of {row.total} images")
    return row


def _spread(values: Sequence[float]) -> Spread | None:
    measured = [value for value in values if not math.isnan(value)]
    if len(measured) < 2:
        return None
    return Spread(statistics.mean(measured), statistics.stdev(measured), len(measured))
