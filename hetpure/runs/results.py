"""The table: accuracies with their intervals, from records, in the forms that people take away."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from hetpure.runs.honesty import Verdict
from hetpure.runs.records import Record, Side
from hetpure.runs.claim import write_whole


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
class Conditions:
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
    """One method under one protocol.

    Attributes:
        method: name of the row.
        images: samples with a result.
        total: samples that there are to evaluate.
        standard: accuracy on clean images, through the defense.
        robust: accuracy on adversarial images, through the defense.
        seconds: computing time, attack and all protocols, summed over processes.
        conditions: what it was measured under.
        protocol: what counts as right.
        failed: samples that gave no result, and are in neither accuracy.
    """

    method: str
    images: int
    total: int
    standard: Accuracy
    robust: Accuracy
    seconds: float
    conditions: Conditions = field(default_factory=Conditions)
    protocol: str = "one-shot"
    failed: int = 0


@dataclass(frozen=True)
class Report:
    """All that an evaluation has to say.

    Attributes:
        title: what the rows have in common.
        rows: the table.
        notes: what a reader must know about how it came about.
        checks: the honesty checks' verdicts by method, where they were run.
        blind: by method, in how many images an attack saw no gradient at all, where it is half of them or more.
    """

    title: str
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()
    checks: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)

    @property
    def failing(self) -> dict[str, list[str]]:
        """Names of the failed checks of each method that has any."""
        failed = {method: [v.check for v in verdicts if v.passed is False] for method, verdicts in self.checks.items()}
        return {method: names for method, names in failed.items() if names}

    @property
    def warning(self) -> str | None:
        """What stands at the report's top where a check failed, or an attack saw nothing."""
        said = []
        if self.failing:
            which = "; ".join(f"{method}: {', '.join(names)}" for method, names in self.failing.items())
            said.append(
                f"THIS REPORT FAILS ITS HONESTY CHECKS ({which}). Its robust accuracies are not to be relied on."
            )
        if self.blind:
            which = "; ".join(f"{method}: {images}" for method, images in self.blind.items())
            said.append(
                f"THE ATTACK SAW NO GRADIENT ({which}): every one was zero. Such a robust accuracy means nothing."
            )
        return " ".join(said) or None


def accuracy(records: Sequence[Record], side: Side) -> Accuracy:
    """Accuracy of the records' clean or adversarial predictions."""
    outcomes = [right for record in records if (right := record.right(side)) is not None]
    if not outcomes:
        return Accuracy(math.nan, math.nan, math.nan, 0)
    right, count = sum(outcomes), len(outcomes)
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return Accuracy(right / count, float(interval.low), float(interval.high), count)


def table_rows(
    method: str, records: Sequence[Record], total: int, protocols: Sequence[str], conditions: Conditions | None = None
) -> list[TableRow]:
    """The lines of a method's records, one a protocol."""
    lines = []
    for protocol in protocols:
        of = [record for record in records if record.protocol == protocol]
        failed = sum(record.failure is not None for record in of)
        figures = accuracy(of, "clean"), accuracy(of, "adversarial"), sum(record.seconds for record in of)
        lines.append(TableRow(method, len(of) - failed, total, *figures, conditions or Conditions(), protocol, failed))
    return lines


def notes_on(method: str, records: Sequence[Record], chunk_size: int) -> list[str]:
    """What went differently from what the config says: failed samples, smaller chunks."""
    first = {record.index: record for record in records}.values()
    failed = [record for record in first if record.failure is not None]
    notes = [
        f"{method}: {len(failed)} of {len(first)} samples failed and count in no accuracy; "
        + "; ".join(f"sample {record.index}: {record.failure}" for record in failed[:3])
    ] * bool(failed)
    smaller = [record for record in first if any(size < chunk_size for size in record.chunks.values())]
    if smaller:
        sizes = sorted({size for record in smaller for size in record.chunks.values()})
        notes.append(
            f"{method}: memory ran out; {len(smaller)} of {len(first)} samples went through the networks in chunks of "
            f"{', '.join(map(str, sizes))} rows, not {chunk_size}: bit for bit they repeat only at those sizes"
        )
    return notes


HEADER = ("method", "images", "attack", "gradients", "EOT", "S", "protocol", "standard, %", "robust, %", "seconds")


def cells(row: TableRow) -> tuple[str, ...]:
    """A line's cells as text, under ``HEADER``."""
    images = str(row.images) if row.images == row.total else f"{row.images} of {row.total}"
    images += f" ({row.failed} failed)" if row.failed else ""
    c = row.conditions
    under = c.attack, c.gradients, str(c.eot), str(c.ensemble), row.protocol
    return row.method, images, *under, str(row.standard), str(row.robust), f"{row.seconds:.1f}"


REPEATED = {HEADER.index(name) for name in HEADER} - {HEADER.index(n) for n in ("protocol", "standard, %", "robust, %")}
"""Columns that are a method's, whatever the protocol."""


def lines_of(rows: Sequence[TableRow]) -> list[tuple[str, ...]]:
    """All cells; what a method's further protocols would repeat is left blank."""
    lines, method = [], None
    for row in rows:
        again = row.method == method
        lines.append(tuple("" if again and i in REPEATED else cell for i, cell in enumerate(cells(row))))
        method = row.method
    return lines


def print_report(report: Report) -> None:
    """The report in the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    if report.warning:
        console.print(report.warning, style="bold red", markup=False)
    table = Table(title=report.title, title_justify="left")
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i in (0, 2, 3, 6) else "right", no_wrap=i not in (2, 3))
    for line in lines_of(report.rows):
        table.add_row(*line)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for method, verdicts in report.checks.items():
        console.print(f"honesty checks of {method}:", markup=False, highlight=False)
        for verdict in verdicts:
            style = {True: "green", False: "bold red", None: "dim"}[verdict.passed]
            console.print(f"  {verdict}", style=style, markup=False, highlight=False)


def write_report(report: Report, folder: Path) -> None:
    """``results.json``, ``results.csv`` (numbers) and ``results.md`` (as people read it) in a folder.

    Raises:
        OSError: where one cannot be written; it is then the old one or not there.
    """
    plain = {
        "title": report.title,
        "warning": report.warning,
        "rows": [_without_nan(asdict(row)) for row in report.rows],
        "notes": list(report.notes),
        "blind": dict(report.blind),
        "honesty": {method: [asdict(v) for v in verdicts] for method, verdicts in report.checks.items()},
    }
    write_whole(folder / "results.json", json.dumps(plain, indent=2, allow_nan=False))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{side}{end}" for side in ("standard", "robust") for end in ("", "_low", "_high")]
    under = [field.name for field in fields(Conditions)]
    writer.writerow(["method", "protocol", "images", "failed", *figures, "seconds", *under])
    for row in report.rows:
        values = [x for a in (row.standard, row.robust) for x in (a.value, a.low, a.high)]
        conditions = asdict(row.conditions).values()
        writer.writerow([row.method, row.protocol, row.images, row.failed, *values, row.seconds, *conditions])
    write_whole(folder / "results.csv", text.getvalue())
    write_whole(folder / "results.md", markdown(report))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"**{report.warning}**", ""] if report.warning else []
    lines += [report.title, "", _line(HEADER), _line(["---"] * len(HEADER)), *map(_line, lines_of(report.rows))]
    lines += ["", *(f"* {note}" for note in report.notes)] if report.notes else []
    for method, verdicts in report.checks.items():
        lines += ["", f"Honesty checks of {method}:", "", *(f"* {verdict}" for verdict in verdicts)]
    return "\n".join(lines) + "\n"


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not measured is null."""
    plain = {key: _without_nan(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: None if value != value else value for key, value in plain.items()}
