"""A table of methods by columns in the forms that people take away: terminal, Markdown, CSV, LaTeX, JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hetpure.reports.tables.paper_table import PaperTable, TableCell
from hetpure.reports.tables.printed import Figure
from hetpure.runs.files import write_whole
from hetpure.runs.results import Accuracy

NOT_MEASURED = "–"
NOT_REPORTED = "-"

_RAISED = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹ ")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "*": r"*", "\u00d7": r"$\times$",
}  # fmt: skip


class Footnotes:
    """Numbers for reasons and notes, the same text under the same number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def numbers(self, texts: Sequence[str]) -> str:
        """Such as ``1,3``."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        return ",".join(str(self.texts.index(text) + 1) for text in texts)


def write_table(table: PaperTable, folder: Path) -> None:
    """``table.md``, ``table.csv`` (numbers, in percent), ``table.tex`` and ``table.json`` in a folder.

    Raises:
        OSError: where one cannot be written; it is then the old one or not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "table.json", json.dumps(plain(table), indent=2, allow_nan=False, ensure_ascii=False))
    header, lines = numbers(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *lines])
    write_whole(folder / "table.csv", text.getvalue())
    write_whole(folder / "table.md", markdown(table))
    write_whole(folder / "table.tex", latex(table))


def plain(table: PaperTable) -> dict[str, Any]:
    """The table as JSON has it: printed figures in percent, with [mean, deviation] for two; measured ones in 0..1."""
    return {
        "title": table.title,
        "run": table.run,
        "warnings": list(table.warnings),
        "columns": list(table.columns),
        "titles": dict(table.columns),
        "rows": [
            {
                "kind": line.kind,
                "method": line.method,
                "cells": {
                    name: {
                        "printed": _bare(cell.printed),
                        "measured": asdict(cell.measured) if cell.measured else None,
                        "reason": "; and ".join(cell.reasons) or None,
                    }
                    for name, cell in line.cells.items()
                },
                "reason": "; and ".join(line.reasons) or None,
                "note": line.note,
            }
            for line in table.lines
        ],
        "notes": list(table.notes),
    }


def numbers(table: PaperTable) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of numbers in percent, nothing where there is none."""
    header = ["kind", "method"]
    for name in table.columns:
        if name in table.printed:
            header += [f"{name}_printed", f"{name}_printed_std"]
        header += [f"{name}_{end}" for end in ("measured", "low", "high", "images")]
    lines = []
    for line in table.lines:
        values: list[Any] = [line.kind, line.method]
        for name, cell in line.cells.items():
            if name in table.printed:
                values += [cell.printed.value, cell.printed.deviation] if cell.printed else [None, None]
            m = cell.measured
            values += [100 * m.value, 100 * m.low, 100 * m.high, m.count] if m else [None] * 4
        reasons = [*line.reasons, *(reason for cell in line.cells.values() for reason in cell.reasons)]
        lines.append([*values, "; and ".join(dict.fromkeys(reasons)) or None, line.note])
    return [*header, "reason", "note"], lines


def written(measured: Accuracy, table: PaperTable) -> str:
    """A measured accuracy as people read it; the number of images where cells differ in it."""
    return str(measured) if table.count is not None else f"{measured} n={measured.count}"


def above(table: PaperTable) -> str:
    """The line between title and table."""
    if not table.measured:
        return f"Accuracies in percent. Nothing was measured; the settings are {table.run}"
    counted = f"n = {table.count} in each measured cell; " if table.count is not None else ""
    return f"Accuracies in percent; measured with 95 % Wilson intervals. {counted}{table.run}"


def laid_out(table: PaperTable, mark: Callable[[str], str]) -> tuple[list[list[str]], Footnotes]:
    """Every cell as text, and the footnotes that they refer to.

    Args:
        table: the table.
        mark: footnote numbers, such as ``1,3``, as they stand raised behind a text; empty for none.
    """
    notes, lines = Footnotes(), []
    for line in table.lines:
        behind = mark(notes.numbers([*line.reasons, *([line.note] if line.note else [])]))
        parts = [line.kind, line.method + behind]
        for name, cell in line.cells.items():
            if name in table.printed:
                parts.append(str(cell.printed) if cell.printed else NOT_REPORTED if line.printed else "")
            parts.append(_cell(cell, table, notes, mark))
        lines.append(parts)
    return lines, notes


def print_table(table: PaperTable) -> None:
    """The table in the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    for warning in table.warnings:
        console.print(warning, style="bold red", markup=False)
    lines, notes = laid_out(table, lambda numbers: f" {numbers.translate(_RAISED)}" if numbers else "")
    console.print(table.title, style="bold", markup=False, highlight=False)
    console.print(above(table), markup=False, highlight=False)
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("type", no_wrap=True)
    shown.add_column("method")
    for name, title in table.columns.items():
        if name in table.printed:
            shown.add_column(f"{title}\nprinted", justify="right")
        shown.add_column(f"{title}\nmeasured", justify="right")
    for line in lines:
        shown.add_row(*map(Text, line))
    if not any(line.kind for line in table.lines):
        del shown.columns[0]
    console.print(shown)
    for number, text in enumerate(notes.texts, start=1):
        console.print(f" {str(number).translate(_RAISED)} {text}", markup=False, highlight=False, soft_wrap=True)
    for note in table.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def markdown(table: PaperTable) -> str:
    """The table as Markdown."""
    lines, notes = laid_out(table, lambda numbers: f"<sup>{numbers}</sup>" if numbers else "")
    head, kinds = _head(table), any(line.kind for line in table.lines)
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *[[p.replace("|", "\\|") for p in line] for line in lines]]
    text = [part for warning in table.warnings for part in (f"**{warning}**", "")]
    text += [f"**{table.title}**", "", above(table), ""]
    text += ["| " + " | ".join(row[0 if kinds else 1 :]) + " |" for row in rows]
    text += ["", *(f"<sup>{number}</sup> {note}  " for number, note in enumerate(notes.texts, start=1))] * bool(
        notes.texts
    )
    text += ["", *(f"* {note}" for note in table.notes)] * bool(table.notes)
    return "\n".join(text) + "\n"


def latex(table: PaperTable) -> str:
    """The table as LaTeX; needs the package booktabs."""
    lines, notes = laid_out(table, lambda numbers: f"\x00{numbers}\x01" if numbers else "")
    kinds = any(line.kind for line in table.lines)
    widths = [2 if name in table.printed else 1 for name in table.columns]
    first = 3 if kinds else 2
    groups, rules, at = [], [], first
    for title, width in zip(table.columns.values(), widths, strict=True):
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    under = [word for width in widths for word in (("printed", "measured")[2 - width :])]
    names = [*(["Type"] if kinds else []), "Method"]
    head = [
        " & ".join([*([""] * len(names)), *groups]) + r" \\",
        " ".join(rules),
        " & ".join([*names, *under]) + r" \\",
    ]
    if not table.printed:  # a column each: nothing to group
        head = [" & ".join([*names, *groups]) + r" \\"]
    title = re.sub(r"^Table (\d+): (.*)$", r"\2 (the paper's Table \1)", table.title)  # LaTeX numbers its own
    text = [
        "% needs \\usepackage{booktabs}",
        *(f"% {_one_line(warning)}" for warning in table.warnings),
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(title)}. {escaped(above(table))}.}}",
        rf"\begin{{tabular}}{{{'l' * (first - 1)}{'r' * sum(widths)}}}",
        r"\toprule",
        *head,
        r"\midrule",
    ]
    before = None
    for line, source in zip(lines, table.lines, strict=True):
        if before is not None and source.kind != before:
            text.append(r"\midrule")
        before = source.kind
        text.append(" & ".join(escaped(part) for part in line[0 if kinds else 1 :]) + r" \\")
    text += [r"\bottomrule", r"\end{tabular}"]
    below = [*table.warnings, *(f"\x00{n}\x01 {note}" for n, note in enumerate(notes.texts, start=1)), *table.notes]
    if below:
        text += [r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        # Paths and addresses have no spaces to break lines at.
        text += [re.sub(r"(/|\\_|=)", r"\1\\allowbreak{}", escaped(note)) + r"\par" for note in below]
        text += [r"\end{minipage}"]
    return "\n".join([*text, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it; footnote marks raised."""
    found = "".join(_LATEX.get(character, character) for character in text)
    return re.sub("\x00([^\x01]*)\x01", r"\\textsuperscript{\1}", found)


def _bare(figure: Figure | None) -> float | list[float] | None:
    if figure is None or figure.deviation is None:
        return None if figure is None else figure.value
    return [figure.value, figure.deviation]


def _cell(cell: TableCell, table: PaperTable, notes: Footnotes, mark: Callable[[str], str]) -> str:
    if cell.measured is None:
        return NOT_MEASURED + mark(notes.numbers(cell.reasons))
    return written(cell.measured, table) + mark(notes.numbers([f"measured before; now: {r}" for r in cell.reasons]))


def _head(table: PaperTable) -> list[str]:
    head = ["type", "method"]
    for name, title in table.columns.items():
        head += [f"{title}, printed"] if name in table.printed else []
        head.append(f"{title}, measured" if table.printed else title)
    return head


def _one_line(text: str) -> str:
    return " ".join(text.split())
