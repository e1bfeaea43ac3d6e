"""A table of methods by columns: published next to measured accuracies, and why a cell is empty."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hetpure.reports.tables.forms import Heading, TextTable, csv_text, latex, mark, markdown
from hetpure.reports.tables.printed import PrintedAccuracy, PrintedTable, printed_table
from hetpure.runs.files import write_whole
from hetpure.runs.results import Accuracy, Report, TableRow

NOT_MEASURED = "–"
NOT_PUBLISHED = "-"


@dataclass(frozen=True)
class TableCell:
    """One method in one column."""

    printed: PrintedAccuracy | None = None  # the paper's
    measured: Accuracy | None = None  # this run's
    reasons: Sequence[str] = ()  # why nothing was measured, if that needs saying
    calls: int | None = None  # in a column of costs: the denoiser's, in one prediction


@dataclass(frozen=True)
class TableLine:
    """One method."""

    method: str  # its name as shown
    kind: str  # AT, AP, or empty
    cells: Mapping[str, TableCell]  # by column
    printed: bool = False  # whether the paper's table has it
    reasons: Sequence[str] = ()  # why none of its cells was measured
    note: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """The whole table."""

    title: str
    run: str  # what was run for the measured columns
    columns: Mapping[str, str]  # titles by name, in order
    printed: frozenset[str]  # columns that have published accuracies
    lines: Sequence[TableLine]
    notes: Sequence[str] = ()  # how each column was measured, and the like
    warnings: Sequence[str] = ()  # what must be read before any number


def build_table(config: Mapping[str, Any], report: Report) -> PaperTable:
    """The table of a resolved config with ``table.lines``, filled from its run's report."""
    settings, root = config["table"], config["data"]["root"]
    columns = {name: column["title"] or name for name, column in settings["columns"].items()}
    paper = printed_table(settings["printed"]) if settings["printed"] else None
    title = "methods by attacks"
    notes = [*_conditions(settings, report.rows), *report.notes]
    warnings = [report.warning] if report.warning else []
    if paper is not None:
        title = f"Table {settings['printed'].removeprefix('table')}: {paper.title}"
        notes += [paper.note] if paper.note else []
        if (changes := report.departures) and any(row.images for row in report.rows):
            listed = "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")
            warnings.append(f"Not the paper's settings: {listed}. Measured and published numbers are not comparable.")
    run = report.title + (f"; images from {root}" if root else "")
    printed = frozenset(name for name in columns if paper and name in paper.columns)
    lines = [_line(line, settings["columns"], paper, report) for line in settings["lines"].values()]
    return PaperTable(settings["title"] or title, run, columns, printed, lines, notes, warnings)


def _line(line: Mapping[str, Any], columns: Mapping[str, Any], paper: PrintedTable | None, report: Report) -> TableLine:
    printed = paper.rows[line["printed"]] if paper and line["printed"] else None
    rows = {(row.method, row.protocol): row for row in report.rows}
    cells = {}
    for name, column in columns.items():
        source, measured, calls, reasons = line["cells"].get(name), None, None, []
        if source is not None:
            row = rows.get((source, column["protocol"]))
            if column["side"] == "calls":
                calls = _calls(row) if row else None
            else:
                measured = _measured(row, column["side"]) if row else None
            reasons = [*line["missing"].get(column["of"] or "", ()), *report.missing.get(source, ())]
        cells[name] = TableCell(printed.accuracies.get(name) if printed else None, measured, reasons, calls)
    reasons = [line["reason"]] if line["reason"] else []
    if line["cells"]:
        first, *others = (cells[name].reasons for name in line["cells"])
        if first and all(other == first for other in others):  # a reason shared by all cells is the line's
            reasons = list(first)
            cells = {name: replace(cell, reasons=()) for name, cell in cells.items()}
    notes = [note for note in (printed.note if printed else None, line["note"]) if note]
    if reasons and any(cell.measured for cell in cells.values()):
        notes.append(_measured_before(reasons))
        reasons = []
    return TableLine(line["label"], line["kind"] or "", cells, printed is not None, reasons, "; ".join(notes) or None)


def _measured_before(reasons: Sequence[str]) -> str:
    return f"measured before; now: {'; and '.join(reasons)}"


def _measured(row: TableRow, side: str) -> Accuracy | None:
    sides = {"standard": (row.standard,), "robust": (row.robust,)}.get(side, (row.standard, row.robust))
    # The mean of two accuracies varies at most as much as they do on average, so its interval is wide enough.
    value, low, high = (sum(getattr(a, end) for a in sides) / len(sides) for end in ("value", "low", "high"))
    return Accuracy(value, low, high, sides[-1].count) if sides[-1].count else None


def _calls(row: TableRow) -> int | None:
    """The denoiser's calls in one prediction, S times those of a purification; None where a run does not say."""
    calls = row.conditions.network_calls
    return None if calls is None else calls * row.conditions.ensemble


def _conditions(settings: Mapping[str, Any], rows: Sequence[TableRow]) -> list[str]:
    """How each column was really measured: one line per column, with the methods that share conditions together."""
    conditions = {row.method: row.conditions for row in rows if row.images}
    notes = []
    for name, column in settings["columns"].items():
        methods: dict[str, list[str]] = {}
        for line in settings["lines"].values():
            c = conditions.get(line["cells"].get(name, ""))
            if c is not None and column["of"] == name:
                words = f"{c.attack}, gradients {c.gradients}, EOT {c.eot}, S {c.ensemble}"
                methods.setdefault(words, []).append(line["label"])
        if methods:
            parts = [f"{words} ({', '.join(labels)})" for words, labels in methods.items()]
            notes.append(f"{column['title'] or name}: {'; '.join(parts)}")
    return notes


# ---- forms


def text_table(table: PaperTable) -> TextTable:
    """The table as text; reasons and notes become footnotes, the same text under the same number."""
    footnotes: list[str] = []

    def raised(texts: Sequence[str]) -> str:
        footnotes.extend(text for text in texts if text not in footnotes)
        return mark(",".join(str(footnotes.index(text) + 1) for text in texts))

    counts = {cell.measured.count for line in table.lines for cell in line.cells.values() if cell.measured}
    lines = []
    for line in table.lines:
        cells = [line.kind, line.method + raised([*line.reasons, *([line.note] if line.note else [])])]
        for name, cell in line.cells.items():
            if name in table.printed:
                cells.append(str(cell.printed) if cell.printed else NOT_PUBLISHED if line.printed else "")
            if cell.calls is not None:
                cells.append(f"{cell.calls:,}{raised([_measured_before([r]) for r in cell.reasons])}")
            elif cell.measured is None:
                cells.append(NOT_MEASURED + raised(cell.reasons))
            else:
                count = f" n={cell.measured.count}" if len(counts) > 1 else ""
                cells.append(f"{cell.measured}{count}{raised([_measured_before([r]) for r in cell.reasons])}")
        lines.append(cells)
    headings = [Heading("type", words=True), Heading("method", words=True, wraps=True)]
    for name, title in table.columns.items():
        if table.printed:
            headings += [Heading("published", title)] if name in table.printed else []
            headings.append(Heading("measured", title))
        else:
            headings.append(Heading(title))
    first = 0 if any(line.kind for line in table.lines) else 1  # a column of types only if there are any
    kinds = [line.kind for line in table.lines]
    subtitle = f"Accuracies in percent. Nothing was measured; the settings are {table.run}"
    if counts:
        counted = f"n = {min(counts)} in each measured cell; " if len(counts) == 1 else ""
        subtitle = f"Accuracies in percent; measured with 95 % Wilson intervals. {counted}{table.run}"
    rules = [k for k in range(1, len(kinds)) if kinds[k] != kinds[k - 1]]
    shown, warnings = [cells[first:] for cells in lines], table.warnings
    return TextTable(table.title, headings[first:], shown, subtitle, warnings, rules, footnotes, table.notes)


def numbers(table: PaperTable) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of numbers in percent; None where there is none."""
    header = ["kind", "method"]
    for name in table.columns:
        header += [f"{name}_printed", f"{name}_printed_std"] if name in table.printed else []
        header += [f"{name}_{end}" for end in ("measured", "low", "high", "images")]
    lines = []
    for line in table.lines:
        values: list[Any] = [line.kind, line.method]
        for name, cell in line.cells.items():
            if name in table.printed:
                values += [cell.printed.value, cell.printed.deviation] if cell.printed else [None, None]
            m = cell.measured
            values += [100 * m.value, 100 * m.low, 100 * m.high, m.count] if m else [cell.calls, None, None, None]
        reasons = [*line.reasons, *(reason for cell in line.cells.values() for reason in cell.reasons)]
        lines.append([*values, "; and ".join(dict.fromkeys(reasons)) or None, line.note])
    return [*header, "reason", "note"], lines


def plain(table: PaperTable) -> dict[str, Any]:
    """The table for JSON: published accuracies in percent, as [mean, deviation] if both are given; measured in 0..1."""

    def cell(cell: TableCell) -> dict[str, Any]:
        printed = cell.printed
        return {
            "printed": printed and (printed.value if printed.deviation is None else [printed.value, printed.deviation]),
            "measured": asdict(cell.measured) if cell.measured else None,
            **({} if cell.calls is None else {"calls": cell.calls}),
            "reason": "; and ".join(cell.reasons) or None,
        }

    rows = []
    for line in table.lines:
        cells, reason = {name: cell(each) for name, each in line.cells.items()}, "; and ".join(line.reasons) or None
        rows.append({"kind": line.kind, "method": line.method, "cells": cells, "reason": reason, "note": line.note})
    columns = {"columns": list(table.columns), "titles": dict(table.columns)}
    head = {"title": table.title, "run": table.run, "warnings": list(table.warnings)}
    return {**head, **columns, "rows": rows, "notes": list(table.notes)}


def write_table(table: PaperTable, folder: Path) -> None:
    """Writes ``table.md``, ``table.csv`` (numbers, in percent), ``table.tex`` and ``table.json``.

    Raises:
        OSError: if one cannot be written; the old file stays.
    """
    header, lines = numbers(table)
    write_whole(folder / "table.json", json.dumps(plain(table), indent=2, allow_nan=False, ensure_ascii=False))
    write_whole(folder / "table.csv", csv_text(header, lines))
    write_whole(folder / "table.md", markdown(text_table(table)))
    write_whole(folder / "table.tex", latex(text_table(table)))
