"""The table of results in the forms that people take away: terminal, Markdown, CSV, JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hetpure.runs.files import write_whole
from hetpure.runs.results import Conditions, Report, TableRow

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
    """``results.csv`` (numbers) and ``results.md`` (as people read it) in a folder.

    Raises:
        OSError: where one cannot be written; it is then the old one or not there.
    """
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
