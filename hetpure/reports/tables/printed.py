"""The numbers of the paper's result tables, as they are printed there: accuracies in percent."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Figure:
    """A printed accuracy in percent.

    Attributes:
        value: the accuracy, or its mean over three runs.
        deviation: their standard deviation, where one is printed.
    """

    value: float
    deviation: float | None = None

    def __str__(self) -> str:
        return _digits(self.value) + (f" ± {self.deviation:.2f}" if self.deviation is not None else "")


@dataclass(frozen=True)
class PrintedRow:
    """A method's line.

    Attributes:
        method: its name.
        kind: AT (an adversarially trained classifier), AP (adversarial purification), or empty.
        figures: by column; None where the paper has a dash.
        note: what the paper says of this row alone.
    """

    method: str
    kind: str
    figures: Mapping[str, Figure | None]
    note: str | None = None


@dataclass(frozen=True)
class PrintedTable:
    """One of the paper's tables.

    Attributes:
        title: what it is about.
        columns: their names, in order.
        rows: by method, in order.
        note: what is known of the table as a whole.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, PrintedRow]
    note: str | None = None


def printed_names() -> list[str]:
    """The tables that there are."""
    return list(_tables())


def printed_table(name: str) -> PrintedTable:
    """A table by name, ``table1`` to ``table8``.

    Raises:
        KeyError: for another name.
    """
    raw = _tables()[name]
    columns = tuple(raw["columns"])
    rows = {
        row["method"]: PrintedRow(
            row["method"],
            row.get("kind", ""),
            {column: _figure(value) for column, value in zip(columns, row["values"], strict=True)},
            row.get("note"),
        )
        for row in raw["rows"]
    }
    return PrintedTable(raw["title"], columns, rows, raw.get("note"))


@functools.cache
def _tables() -> dict[str, Any]:
    return yaml.safe_load(files("hetpure.reports.tables").joinpath("printed_tables.yaml").read_text())


def _figure(value: float | list[float] | None) -> Figure | None:
    if value is None:
        return None
    return Figure(*value) if isinstance(value, list) else Figure(value)


def _digits(value: float) -> str:
    """Two decimals, or all of them where more are printed."""
    return f"{value:.2f}" if round(value, 2) == value else str(value)
