"""The table of results: its columns, and the forms in which people take it away."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from hetpure.runs.files import write_whole
from hetpure.runs.results import Report, TableRow

Value = Callable[[TableRow], Any]


@dataclass(frozen=True)
class Column:
    """One column, in every form of the table.

    Attributes:
        heading: as people read it.
        value: of a row; its text is the cell.
        numbers: what CSV has instead, by heading; by default the value under the column's own heading.
        words: whether cells are words, aligned left, not numbers.
        wraps: whether long cells may be broken into lines.
        by_protocol: whether the cell differs between the protocols of one method; others are shown once a method.
        common: whether the page shows it once, above the table, where all rows have the same.
    """

    heading: str
    value: Value
    numbers: Mapping[str, Value] | None = None
    words: bool = False
    wraps: bool = False
    by_protocol: bool = False
    common: bool = False


def _images(row: TableRow) -> str:
    images = str(row.images) if row.images == row.total else f"{row.images} of {row.total}"
    return images + (f" ({row.failed} failed)" if row.failed else "")


def _accuracy(side: str) -> dict[str, Value]:
    ends = {side: "value", f"{side}_low": "low", f"{side}_high": "high"}
    return {heading: attrgetter(f"{side}.{end}") for heading, end in ends.items()}


COLUMNS = [
    Column("method", attrgetter("method"), words=True),
    Column("protocol", attrgetter("protocol"), words=True, by_protocol=True, common=True),
    Column("standard, %", attrgetter("standard"), _accuracy("standard"), by_protocol=True),
    Column("robust, %", attrgetter("robust"), _accuracy("robust"), by_protocol=True),
    Column("images", _images, {"images": attrgetter("images"), "failed": attrgetter("failed")}),
    Column("attack", attrgetter("conditions.attack"), words=True, wraps=True, common=True),
    Column("gradients", attrgetter("conditions.gradients"), words=True, wraps=True, common=True),
    Column("EOT", attrgetter("conditions.eot"), {"eot": attrgetter("conditions.eot")}),
    Column("S", attrgetter("conditions.ensemble"), {"ensemble": attrgetter("conditions.ensemble")}),
    Column("seconds", lambda row: f"{row.seconds:.1f}", {"seconds": attrgetter("seconds")}),
]
"""All columns in order. A column that is added here is in the terminal, Markdown, CSV, the page and W&B."""


def cells(rows: Sequence[TableRow]) -> list[list[str]]:
    """All cells as text; what a method's further protocols would repeat is left blank."""
    lines, method = [], None
    for row in rows:
        again = row.method == method
        lines.append(["" if again and not column.by_protocol else str(column.value(row)) for column in COLUMNS])
        method = row.method
    return lines


def print_report(report: Report) -> None:
    """The report in the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    if report.warning:
        console.print(report.warning, style="bold red", markup=False)
    table = Table(title=report.title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column.heading, justify="left" if column.words else "right", no_wrap=not column.wraps)
    for line in cells(report.rows):
        table.add_row(*line)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for method, verdicts in report.checks.items():
        console.print(f"honesty checks of {method}:", markup=False, highlight=False)
        for verdict in verdicts:
            style = {True: "green", False: "bold red", None: "dim"}[verdict.passed]
            console.print(f"  {verdict}", style=style, markup=False, highlight=False)


def write_table_files(report: Report, folder: Path) -> None:
    """``results.csv`` (numbers) and ``results.md`` (as people read it) in a folder.

    Raises:
        OSError: where one cannot be written; it is then the old one or not there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers: dict[str, Value] = {}
    for column in COLUMNS:
        numbers |= column.numbers or {column.heading: column.value}
    writer.writerow(numbers)
    writer.writerows([value(row) for value in numbers.values()] for row in report.rows)
    write_whole(folder / "results.csv", text.getvalue())
    write_whole(folder / "results.md", markdown(report))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    headings = [column.heading for column in COLUMNS]
    lines = [f"**{report.warning}**", ""] if report.warning else []
    lines += [report.title, "", _line(headings), _line(["---"] * len(headings)), *map(_line, cells(report.rows))]
    lines += ["", *(f"* {note}" for note in report.notes)] if report.notes else []
    for method, verdicts in report.checks.items():
        lines += ["", f"Honesty checks of {method}:", "", *(f"* {verdict}" for verdict in verdicts)]
    return "\n".join(lines) + "\n"


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"
