"""A table of text in every form: terminal, Markdown, LaTeX, CSV."""

import csv
import io
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

_MARK = re.compile("\x00([^\x01]*)\x01")
_FORMULA = re.compile(r"[=+\-@].")  # a dash alone is none
_RAISED = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹ ")
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "\u00d7": r"$\times$",
})  # fmt: skip


@dataclass(frozen=True)
class Heading:
    """The heading of a column."""

    text: str  # of the column itself
    group: str = ""  # above it, shared with neighbouring columns
    words: bool = False  # whether cells are words, aligned left, and not numbers
    wraps: bool = False  # whether long cells may be broken into lines


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text."""

    title: str
    headings: Sequence[Heading]
    lines: Sequence[Sequence[str]]  # cells, one for each heading; ``mark`` makes footnote numbers in them
    subtitle: str = ""
    warnings: Sequence[str] = ()  # what must be read before any number
    rules: Collection[int] = ()  # positions of the lines that have a rule above
    footnotes: Sequence[str] = ()  # texts of the footnotes 1, 2, ..
    notes: Sequence[str] = ()


def mark(numbers: str) -> str:
    """Footnote numbers, such as ``1,3``, behind a cell's text; each form raises them in its own way."""
    return f"\x00{numbers}\x01" if numbers else ""


def print_table(table: TextTable) -> None:
    """Prints the table in the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 160, markup=False, highlight=False)
    for warning in table.warnings:
        console.print(warning, style="bold red", highlight=True)
    console.print(table.title, style="bold")
    if table.subtitle:
        console.print(table.subtitle)
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in table.headings:
        text = Text("\n".join(filter(None, (heading.group, heading.text))))
        shown.add_column(text, justify="left" if heading.words else "right", no_wrap=not heading.wraps)
    for line in table.lines:
        shown.add_row(*(Text(_MARK.sub(lambda match: f" {match[1].translate(_RAISED)}", cell)) for cell in line))
    console.print(shown)
    for number, text in enumerate(table.footnotes, start=1):
        console.print(f" {str(number).translate(_RAISED)} {text}", soft_wrap=True)
    for note in table.notes:
        console.print(f"note: {note}", soft_wrap=True)


def markdown(table: TextTable) -> str:
    """The table as Markdown."""
    head = [_markdown_cell(", ".join(filter(None, (heading.group, heading.text)))) for heading in table.headings]
    rule = ["---" if heading.words else "---:" for heading in table.headings]
    cells = [[_MARK.sub(r"<sup>\1</sup>", _markdown_cell(cell)) for cell in line] for line in table.lines]
    text = [part for warning in table.warnings for part in (f"**{warning}**", "")]
    text += [f"**{table.title}**", "", *([table.subtitle, ""] if table.subtitle else [])]
    text += [f"| {' | '.join(line)} |" for line in (head, rule, *cells)]
    if table.footnotes:
        text += ["", *(f"<sup>{number}</sup> {note}  " for number, note in enumerate(table.footnotes, start=1))]
    if table.notes:
        text += ["", *(f"* {note}" for note in table.notes)]
    return "".join(f"{one_line(line)}\n" for line in text)


def latex(table: TextTable) -> str:
    """The table as LaTeX; needs the package booktabs."""
    groups, rules, start = [], [], 1
    for group, members in itertools.groupby(table.headings, key=attrgetter("group")):
        width = len(list(members))
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
        start += width
    align = "".join("p{45mm}" if h.wraps else "l" if h.words else "r" for h in table.headings)
    title = re.sub(r"^Table (\d+): (.*)$", r"\2 (the paper's Table \1)", table.title)  # LaTeX numbers its own
    caption = ". ".join(escaped(part) for part in (title, table.subtitle) if part)
    text = [
        r"% needs \usepackage{booktabs}",
        *(f"% {one_line(warning)}" for warning in table.warnings),
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}.}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        *([_line(groups), " ".join(rules)] if rules else []),
        _line([escaped(heading.text) for heading in table.headings]),
        r"\midrule",
    ]
    for number, line in enumerate(table.lines):
        text += [r"\midrule"] if number in table.rules else []
        text.append(_line([escaped(cell) for cell in line]))
    text += [r"\bottomrule", r"\end{tabular}"]
    footnotes = [f"{mark(str(number))} {note}" for number, note in enumerate(table.footnotes, start=1)]
    if below := [*table.warnings, *footnotes, *table.notes]:
        text.append(r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright")
        # Paths and addresses have no spaces at which a line could break.
        text += [re.sub(r"(/|\\_|=)", r"\1\\allowbreak{}", escaped(note)) + r"\par" for note in below]
        text.append(r"\end{minipage}")
    return "\n".join([*text, r"\end{table}"]) + "\n"


def csv_text(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Header and lines as CSV; None is empty. Text that a spreadsheet would take for a formula has a ' before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_csv_cell(cell) if isinstance(cell, str) else cell for cell in line] for line in (header, *lines))
    return text.getvalue()


def escaped(text: str) -> str:
    """Text for LaTeX, on one line, with footnote numbers raised."""
    return _MARK.sub(r"\\textsuperscript{\1}", one_line(text).translate(_LATEX))


def one_line(text: str) -> str:
    """Text without line breaks: a break would end a table's line, a note or a comment."""
    return " ".join(text.splitlines())


def _markdown_cell(text: str) -> str:
    return one_line(text).replace("\\", r"\\").replace("|", r"\|")


def _csv_cell(text: str) -> str:
    text = one_line(text)
    return f"'{text}" if _FORMULA.match(text) else text


def _line(cells: Sequence[str]) -> str:
    # A [ or * after the line before would be taken for an argument of its end.
    start = "{}" if cells[0].startswith(("[", "*")) else ""
    return start + " & ".join(cells) + r" \\"
