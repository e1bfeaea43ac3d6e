"""A table of methods by columns: what was measured beside what is printed, and why a cell is empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hetpure.reports.tables.printed import Figure, PrintedTable, printed_table
from hetpure.runs.results import Accuracy, Report, TableRow


@dataclass(frozen=True)
class TableCell:
    """One method in one column.

    Attributes:
        printed: the paper's figure, if any.
        measured: ours, if any.
        reasons: why there is none, as far as that is worth saying.
    """

    printed: Figure | None = None
    measured: Accuracy | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableLine:
    """A method.

    Attributes:
        method: as people read it.
        kind: AT, AP, or empty.
        cells: by column.
        printed: whether the paper's table has it.
        reasons: why nothing of it was measured.
        note: what else there is to say.
    """

    method: str
    kind: str
    cells: Mapping[str, TableCell]
    printed: bool = False
    reasons: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """The whole table.

    Attributes:
        title: what the table is about.
        run: what was run for the measured columns.
        columns: titles by name, in order.
        printed: columns that have printed figures.
        lines: the methods, in order.
        notes: under what each column was measured, and the like.
        warnings: what must be known before any figure is believed.
    """

    title: str
    run: str
    columns: Mapping[str, str]
    printed: frozenset[str]
    lines: Sequence[TableLine]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def measured(self) -> list[Accuracy]:
        """All measured figures."""
        return [cell.measured for line in self.lines for cell in line.cells.values() if cell.measured]

    @property
    def count(self) -> int | None:
        """Images in every measured cell, if that is one number."""
        counts = {figure.count for figure in self.measured}
        return counts.pop() if len(counts) == 1 else None


def build_table(config: Mapping[str, Any], report: Report) -> PaperTable:
    """The table of a resolved config with ``table.lines``, from what its run found."""
    settings, root = config["table"], config["data"]["root"]
    paper = printed_table(settings["printed"]) if settings["printed"] else None
    measured = {(row.method, row.protocol): row for row in report.rows}
    lines = [_line(line, settings["columns"], paper, measured, report.missing) for line in settings["lines"].values()]
    notes = [*_conditions(settings, report.rows), *report.notes, *([paper.note] if paper and paper.note else [])]
    warnings = [report.warning] if report.warning else []
    if measured and paper is not None and (other := report.departures):
        shown = "; ".join(other[:4]) + (f"; and {len(other) - 4} more" if len(other) > 4 else "")
        warnings.append(f"Not the paper's settings: {shown}. Measured and printed figures are not the same quantity.")
    return PaperTable(
        settings["title"] or (f"{_numbered(settings['printed'])}: {paper.title}" if paper else "methods by attacks"),
        report.title + (f"; images from {root}" if root else ""),
        {name: column["title"] or name for name, column in settings["columns"].items()},
        frozenset(set(settings["columns"]) & set(paper.columns if paper else ())),
        lines,
        notes,
        warnings,
    )


def _line(
    line: Mapping[str, Any],
    columns: Mapping[str, Any],
    paper: PrintedTable | None,
    measured: Mapping[tuple[str, str], TableRow],
    absent: Mapping[str, Sequence[str]],
) -> TableLine:
    printed = paper.rows[line["printed"]] if paper and line["printed"] else None
    cells = {}
    for name, column in columns.items():
        source = line["cells"].get(name)
        row = measured.get((source, column["protocol"])) if source else None
        reasons = [*line["missing"].get(column["of"] or "", ()), *absent.get(source, ())] if source else []
        found = _measured(row, column["side"]) if row else None
        figure = printed.figures.get(name) if printed else None
        cells[name] = TableCell(figure, found, tuple(reasons))
    reasons = (line["reason"],) if line["reason"] else ()
    everywhere = [cells[name].reasons for name in line["cells"]]
    if everywhere and everywhere[0] and all(reasons == everywhere[0] for reasons in everywhere):
        # The same throughout is the line's.
        reasons = everywhere[0]
        cells = {name: TableCell(cell.printed, cell.measured) for name, cell in cells.items()}
    notes = [note for note in (printed.note if printed else None, line["note"]) if note]
    if reasons and any(cell.measured for cell in cells.values()):
        notes.append(f"measured before; now: {'; and '.join(reasons)}")
        reasons = ()
    return TableLine(line["label"], line["kind"] or "", cells, printed is not None, reasons, "; ".join(notes) or None)


def _measured(row: TableRow, side: str) -> Accuracy | None:
    standard, robust = row.standard, row.robust
    if side != "average":
        found = standard if side == "standard" else robust
    else:
        # The mean of two accuracies varies at most as much as they do on average: so this interval is wide enough.
        value, low, high = ((getattr(standard, end) + getattr(robust, end)) / 2 for end in ("value", "low", "high"))
        found = Accuracy(value, low, high, robust.count)
    return found if found.count else None


def _conditions(settings: Mapping[str, Any], rows: Sequence[TableRow]) -> list[str]:
    """Under what each column's evaluations really ran: one line a column, methods that share conditions together."""
    by_name = {row.method: row.conditions for row in rows}
    notes = []
    for column in settings["columns"]:
        together: dict[str, list[str]] = {}
        for line in settings["lines"].values():
            c = by_name.get(line["cells"].get(column, ""))
            if c is not None and settings["columns"][column]["of"] == column:
                said = f"{c.attack}, gradients {c.gradients}, EOT {c.eot}, S {c.ensemble}"
                together.setdefault(said, []).append(line["label"])
        parts = [f"{said} ({', '.join(labels)})" for said, labels in together.items()]
        if parts:
            notes.append(f"{settings['columns'][column]['title'] or column}: {'; '.join(parts)}")
    return notes


def _numbered(name: str) -> str:
    return f"Table {name.removeprefix('table')}"
