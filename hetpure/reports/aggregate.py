"""Mean and standard deviation over runs that differ in their seed, as the paper reports three runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hetpure.errors import ConfigError, require
from hetpure.reports.table import accuracies_of
from hetpure.reports.tables import forms
from hetpure.runs.claim import ALWAYS_FREE, differences
from hetpure.runs.read import read_results, read_settings

FREE = (*ALWAYS_FREE, "seed", "pictures", "threads", "data.batch_size", "data.root", "honesty.images")
"""Keys in which the runs may differ."""


@dataclass(frozen=True)
class Spread:
    """Accuracies of several runs, in 0..1: their mean and sample standard deviation (n - 1 in the denominator)."""

    mean: float
    deviation: float
    runs: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f}"


def aggregate(folders: Sequence[Path]) -> dict[tuple[str, str], dict[str, Spread | None]]:
    """``standard`` and ``robust`` of each (method, protocol) over finished runs that differ only in their seed.

    Where the attacks' threat models have several norms, there is ``robust_NORM`` for each.

    Raises:
        ConfigError: for fewer than two runs, an unfinished run, or runs that are not of one experiment.
    """
    require(len(folders) >= 2, "folders", [str(folder) for folder in folders], "two runs or more")
    first, seeds = read_settings(folders[0]), {}
    accuracies: list[dict[tuple[str, str], dict[str, float]]] = []
    for folder in folders:
        config = read_settings(folder)
        if (other := seeds.setdefault(config["seed"], folder)) is not folder:
            raise ConfigError(str(folder), f"has the seed {config['seed']}, as {other} has")
        if changes := differences(first, config, FREE):
            raise ConfigError(str(folder), f"is not the same experiment as {folders[0]} ({'; '.join(changes[:4])})")
        rows = read_results(folder).rows
        for row in rows:
            if row.images + row.failed < row.total:
                raise ConfigError(str(folder), f"is not finished: {row.method} has {row.images} of {row.total} images")
        columns = accuracies_of(rows)
        sides = [{side: accuracy(row).value for side, accuracy in columns.items()} for row in rows]
        accuracies.append({(row.method, row.protocol): values for row, values in zip(rows, sides, strict=True)})
        if list(accuracies[-1]) != list(accuracies[0]):
            raise ConfigError(str(folder), f"its table has other methods or protocols than that of {folders[0]}")
    return {
        name: {side: _spread([run[name].get(side, math.nan) for run in accuracies]) for side in sides}
        for name, sides in accuracies[0].items()
    }


def markdown(spreads: dict[tuple[str, str], dict[str, Spread | None]], runs: int) -> str:
    """The table as Markdown."""
    sides = [*next(iter(spreads.values()), {})]
    headings = [forms.Heading(name, words=True) for name in ("method", "protocol")]
    headings += [forms.Heading(f"{side}, %") for side in sides]
    lines = [[*names, *(str(spread or "-") for spread in of_sides.values())] for names, of_sides in spreads.items()]
    return forms.markdown(forms.TextTable(f"{runs} runs, mean ± standard deviation", headings, lines))


def _spread(values: Sequence[float]) -> Spread | None:
    measured = [value for value in values if not math.isnan(value)]
    if len(measured) < 2:
        return None
    return Spread(statistics.mean(measured), statistics.stdev(measured), len(measured))
