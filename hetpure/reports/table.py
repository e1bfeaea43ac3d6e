"""The table of results: its columns, and the forms in which it is shown and saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from hetpure.reports.tables import forms
from hetpure.runs.files import write_whole
from hetpure.runs.results import Accuracy, Report, TableRow

Value = Callable[[TableRow], Any]


@dataclass(frozen=True)
class Column:
    """One column, in every form of the table."""

    heading: str  # as people read it
    value: Value  # its value in a row; the text of the value is the cell
    numbers: Mapping[str, Value] | None = None  # what CSV has instead, by heading; by default heading and value
    words: bool = False  # whether cells are words, aligned left, and not numbers
    wraps: bool = False  # whether long cells may be broken into lines
    by_protocol: bool = False  # whether a method's protocols differ in it; other columns are shown once per method
    common: bool = False  # whether it stands once, above the table, if all rows have the same value (page and LaTeX)


def _images(row: TableRow) -> str:
    images = str(row.images) if row.images == row.total else f"{row.images} of {row.total}"
    return images + (f" ({row.failed} failed)" if row.failed else "")


def _converged(row: TableRow) -> str:
    if not row.robust.count:
        return "-"
    return {True: "yes", False: "NO", None: "not checked"}[row.converged]


def _accuracy(name: str, value: Callable[[TableRow], Accuracy], heading: str | None = None) -> Column:
    ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    numbers: dict[str, Value] = {key: lambda row, end=end: getattr(value(row), end) for key, end in ends.items()}
    return Column(heading or f"{name.replace('_', ' under ')}, %", value, numbers, by_protocol=True)


def _certified(radius: str) -> Column:
    def value(row: TableRow) -> Accuracy:
        return row.certified.get(radius, Accuracy())

    return _accuracy(f"certified_{radius}", value, f"certified at {radius}, %")


ROBUST = _accuracy("robust", attrgetter("robust"))

COLUMNS = [
    Column("method", attrgetter("method"), words=True),
    Column("protocol", attrgetter("protocol"), words=True, by_protocol=True, common=True),
    _accuracy("standard", attrgetter("standard")),
    ROBUST,
    Column("converged", _converged, {"converged": attrgetter("converged")}, words=True),
    Column("images", _images, {"images": attrgetter("images"), "failed": attrgetter("failed")}),
    Column("attack", attrgetter("conditions.attack"), words=True, wraps=True, common=True),
    Column("gradients", attrgetter("conditions.gradients"), words=True, wraps=True, common=True),
    Column("EOT", attrgetter("conditions.eot"), {"eot": attrgetter("conditions.eot")}),
    Column("S", attrgetter("conditions.ensemble"), {"ensemble": attrgetter("conditions.ensemble")}),
    Column("seconds", lambda row: f"{row.seconds:.1f}", {"seconds": attrgetter("seconds")}),
]
"""All columns in order. A column added here is in the terminal, Markdown, LaTeX, CSV, the page and W&B."""


def accuracies_of(rows: Sequence[TableRow]) -> dict[str, Callable[[TableRow], Accuracy]]:
    """``standard`` and ``robust``; or ``robust_NORM`` for each norm, where the rows' attacks have several.

    So no column holds accuracies under norms that cannot be compared. Rows whose norm is not known stay ``robust``.
    """

    def under(norm: str | None) -> Callable[[TableRow], Accuracy]:
        return lambda row: row.robust if row.conditions.norm == norm else Accuracy()

    norms = list(dict.fromkeys(row.conditions.norm for row in rows if row.robust.count))
    if len(set(norms) - {None}) < 2:
        return {"standard": attrgetter("standard"), "robust": attrgetter("robust")}
    robust = {f"robust_{norm}" if norm else "robust": under(norm) for norm in norms}
    return {"standard": attrgetter("standard"), **robust}


def columns_of(rows: Sequence[TableRow]) -> list[Column]:
    """``COLUMNS`` for some rows, with the robust accuracies of ``accuracies_of`` and the certified ones, if any."""
    robust = [_accuracy(name, value) for name, value in accuracies_of(rows).items() if name != "standard"]
    robust += [_certified(radius) for radius in dict.fromkeys(radius for row in rows for radius in row.certified)]
    return [each for column in COLUMNS for each in (robust if column is ROBUST else [column])]


def split_common(rows: Sequence[TableRow]) -> tuple[list[Column], dict[str, str]]:
    """The columns that differ between rows, and by heading the value of those that do not and are ``common``."""
    columns = columns_of(rows)
    values = {column.heading: {str(column.value(row)) for row in rows} for column in columns if column.common}
    common = {heading: next(iter(texts)) for heading, texts in values.items() if len(texts) == 1}
    return [column for column in columns if column.heading not in common], common


def cells(rows: Sequence[TableRow], columns: Sequence[Column]) -> list[list[str]]:
    """The cells as text; those that a method's further protocols would repeat are empty."""
    lines, method = [], None
    for row in rows:
        repeated = row.method == method
        lines.append(["" if repeated and not column.by_protocol else str(column.value(row)) for column in columns])
        method = row.method
    return lines


def text_table(report: Report, columns: Sequence[Column], subtitle: str = "") -> forms.TextTable:
    """Some columns of the report's table as text."""
    headings = [forms.Heading(column.heading, "", column.words, column.wraps) for column in columns]
    warnings = [report.warning] if report.warning else []
    return forms.TextTable(report.title, headings, cells(report.rows, columns), subtitle, warnings, notes=report.notes)


def print_report(report: Report) -> None:
    """Prints the table and the honesty checks in the terminal."""
    from rich.console import Console

    forms.print_table(text_table(report, columns_of(report.rows)))
    console = Console(width=None if Console().is_terminal else 160)
    for method, verdicts in report.checks.items():
        console.print(f"honesty checks of {method}:", markup=False, highlight=False)
        for verdict in verdicts:
            style = {True: "green", False: "bold red", None: "dim"}[verdict.passed]
            console.print(f"  {verdict}", style=style, markup=False, highlight=False)


def markdown(report: Report) -> str:
    """The table and the honesty checks as Markdown."""
    lines = []
    for method, verdicts in report.checks.items():
        lines += ["", f"Honesty checks of {method}:", "", *(f"* {verdict}" for verdict in verdicts)]
    table = text_table(report, columns_of(report.rows))
    return forms.markdown(table) + "".join(f"{forms.one_line(line)}\n" for line in lines)


def write_table_files(report: Report, folder: Path) -> None:
    """Writes ``results.csv`` (numbers), ``results.md`` and ``results.tex`` (as people read them).

    Raises:
        OSError: if one cannot be written; the old file stays.
    """
    numbers: dict[str, Value] = {}
    for column in columns_of(report.rows):
        numbers |= column.numbers or {column.heading: column.value}
    lines = [[value(row) for value in numbers.values()] for row in report.rows]
    write_whole(folder / "results.csv", forms.csv_text(list(numbers), lines))
    write_whole(folder / "results.md", markdown(report))
    columns, common = split_common(report.rows)
    subtitle = "; ".join(f"{heading} {value}" for heading, value in common.items())
    write_whole(folder / "results.tex", forms.latex(text_table(report, columns, subtitle)))
