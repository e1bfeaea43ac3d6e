"""The table: accuracies with their intervals, from records, in the forms that people take away."""

import csv
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from torchmetrics.classification import MulticlassAccuracy

from hetpure.evaluation.records import Record, scores_of


@dataclass(frozen=True)
class Accuracy:
    """A share of samples with its 95 % Wilson interval, all in 0..1; NaN where there are no samples."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{100 * self.value:.2f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Protocol:
    """Under what a row was measured, as it really ran.

    Attributes:
        attack: the attack, or ``no attack``.
        gradients: ``exact``, or what the surrogate attack process changes.
        eot: draws per gradient; 1 for a purifier without randomness.
        ensemble: purifications per prediction, likewise.
    """

    attack: str = "no attack"
    gradients: str = "-"
    eot: int = 1
    ensemble: int = 1


@dataclass(frozen=True)
class TableRow:
    """One method's line.

    Attributes:
        method: name of the row.
        images: samples evaluated.
        total: samples that there are to evaluate.
        standard: accuracy on clean images, through the defense.
        robust: accuracy on adversarial images, through the defense.
        seconds: computing time, attack and defense, summed over processes.
        protocol: what it was measured under.
    """

    method: str
    images: int
    total: int
    standard: Accuracy
    robust: Accuracy
    seconds: float
    protocol: Protocol = field(default_factory=Protocol)


def accuracy(records: list[Record], name: str) -> Accuracy:
    """Accuracy of the records' ``clean`` or ``adversarial`` scores."""
    scores, labels = scores_of(records, name)
    if not len(labels):
        return Accuracy(math.nan, math.nan, math.nan, 0)
    metric = MulticlassAccuracy(scores.shape[1], average="micro")
    right, count = round(float(metric(scores, labels)) * len(labels)), len(labels)
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return Accuracy(right / count, float(interval.low), float(interval.high), count)


def table_row(method: str, records: list[Record], total: int, protocol: Protocol | None = None) -> TableRow:
    """The line of a method's records."""
    seconds = sum(record.seconds for record in records)
    clean, adversarial = accuracy(records, "clean"), accuracy(records, "adversarial")
    return TableRow(method, len(records), total, clean, adversarial, seconds, protocol or Protocol())


HEADER = ("method", "images", "attack", "gradients", "EOT", "S", "standard, %", "robust, %", "seconds")


def cells(row: TableRow) -> tuple[str, ...]:
    """A line's cells as text, under ``HEADER``."""
    images = str(row.images) if row.images == row.total else f"{row.images} of {row.total}"
    p = row.protocol
    under = p.attack, p.gradients, str(p.eot), str(p.ensemble)
    return row.method, images, *under, str(row.standard), str(row.robust), f"{row.seconds:.1f}"


def print_table(rows: list[TableRow], title: str) -> None:
    """The table in the terminal."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i in (0, 2, 3) else "right", no_wrap=i not in (2, 3))
    for row in rows:
        table.add_row(*cells(row))
    Console(width=None if Console().is_terminal else 140).print(table)


def write_table(rows: list[TableRow], title: str, folder: Path) -> None:
    """``results.json``, ``results.csv`` (numbers) and ``results.md`` (as people read it) in a folder."""
    plain = {"title": title, "rows": [_without_nan(asdict(row)) for row in rows]}
    (folder / "results.json").write_text(json.dumps(plain, indent=2, allow_nan=False))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "method",
                "images",
                "standard",
                "standard_low",
                "standard_high",
                "robust",
                "robust_low",
                "robust_high",
                "seconds",
                *(field.name for field in fields(Protocol)),
            ]
        )
        for row in rows:
            figures = [x for a in (row.standard, row.robust) for x in (a.value, a.low, a.high)]
            writer.writerow([row.method, row.images, *figures, row.seconds, *asdict(row.protocol).values()])
    lines = [f"{title}", "", *("| " + " | ".join(line) + " |" for line in (HEADER, ["---"] * len(HEADER)))]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    (folder / "results.md").write_text("\n".join(lines) + "\n")


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not measured is null."""
    plain = {key: _without_nan(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: None if value != value else value for key, value in plain.items()}
