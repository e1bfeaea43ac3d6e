"""The paper's result tables as published: accuracies in percent."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class PrintedAccuracy:
    """A published accuracy in percent: one number, or mean and standard deviation over three runs."""

    value: float
    deviation: float | None = None

    def __str__(self) -> str:
        # Two decimals, or all of them where more are published.
        value = f"{self.value:.2f}" if round(self.value, 2) == self.value else str(self.value)
        return value if self.deviation is None else f"{value} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class PrintedRow:
    """One method of a published table."""

    kind: str  # AT (an adversarially trained classifier), AP (adversarial purification), or empty
    accuracies: Mapping[str, PrintedAccuracy | None]  # by column; None where the paper has a dash
    note: str | None = None  # what the paper says about this row alone


@dataclass(frozen=True)
class PrintedTable:
    """One of the paper's tables; ``rows`` are by method, ``columns`` and ``rows`` in the paper's order."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, PrintedRow]
    note: str | None = None


def printed_names() -> list[str]:
    """The names of the published tables."""
    return list(_tables())


def printed_table(name: str) -> PrintedTable:
    """A published table by name, ``table1`` to ``table8``.

    Raises:
        KeyError: for another name.
    """
    raw = _tables()[name]
    rows = {}
    for row in raw["rows"]:
        values = [value if isinstance(value, list) else [value] for value in row["values"]]  # or [mean, deviation]
        accuracies = [PrintedAccuracy(*value) if value[0] is not None else None for value in values]
        by_column = dict(zip(raw["columns"], accuracies, strict=True))
        rows[row["method"]] = PrintedRow(row.get("kind", ""), by_column, row.get("note"))
    return PrintedTable(raw["title"], tuple(raw["columns"]), rows, raw.get("note"))


@functools.cache
def _tables() -> dict[str, Any]:
    return yaml.safe_load(files("hetpure.reports.tables").joinpath("printed_tables.yaml").read_text())
