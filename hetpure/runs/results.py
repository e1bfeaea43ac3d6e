"""What a run found: accuracies with their intervals, counted from records; ``results.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from hetpure.runs.files import FORMAT_VERSION, RESULTS, write_whole
from hetpure.runs.honesty import Verdict
from hetpure.runs.records import Record, Side


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
        missing: by name, what rows lack that could not be evaluated.
        departures: what the run changes in the settings of the printed table that it stands beside.
    """

    title: str
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()
    checks: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    departures: Sequence[str] = ()

    @property
    def failing(self) -> dict[str, list[str]]:
        """Names of the failed checks of each method that has any."""
        failed = {method: [v.check for v in verdicts if v.passed is False] for method, verdicts in self.checks.items()}
        return {method: names for method, names in failed.items() if names}

    @property
    def warning(self) -> str | None:
        """What stands at the report's top where a check failed, or an attack saw nothing."""
        parts = []
        if self.failing:
            which = "; ".join(f"{method}: {', '.join(names)}" for method, names in self.failing.items())
            parts.append(
                f"THIS REPORT FAILS ITS HONESTY CHECKS ({which}). Its robust accuracies are not to be relied on."
            )
        if self.blind:
            which = "; ".join(f"{method}: {images}" for method, images in self.blind.items())
            parts.append(
                f"THE ATTACK SAW NO GRADIENT ({which}): every one was zero. Such a robust accuracy means nothing."
            )
        return " ".join(parts) or None


def write_results(report: Report, folder: Path) -> None:
    """Writes ``results.json``; what was not measured is null there.

    Raises:
        OSError: where it cannot be written; it is then the old one or not there.
    """
    plain = {
        "format_version": FORMAT_VERSION,
        "title": report.title,
        "warning": report.warning,
        "rows": [plain_row(row) for row in report.rows],
        "notes": list(report.notes),
        "blind": dict(report.blind),
        "honesty": {method: [asdict(v) for v in verdicts] for method, verdicts in report.checks.items()},
        "missing": {name: list(reasons) for name, reasons in report.missing.items()},
        "departures": list(report.departures),
    }
    write_whole(folder / RESULTS, json.dumps(plain, indent=2, allow_nan=False))


def plain_row(row: TableRow) -> dict[str, Any]:
    """A row as ``results.json`` has it."""
    return _without_nan(asdict(row))


def parse_results(plain: Mapping[str, Any]) -> Report:
    """The report that the content of a ``results.json`` describes, of any version.

    Raises:
        ValueError, TypeError, KeyError: where it is none.
    """
    return Report(
        str(plain["title"]),
        [_parse_row(row) for row in plain["rows"]],
        list(plain["notes"]),
        {name: [_parse_verdict(verdict) for verdict in of] for name, of in (plain.get("honesty") or {}).items()},
        dict(plain.get("blind") or {}),
        dict(plain.get("missing") or {}),
        list(plain.get("departures") or ()),
    )


def _parse_row(row: Mapping[str, Any]) -> TableRow:
    sides = {side: parse_accuracy(row[side]) for side in ("standard", "robust")}
    return TableRow(**{**row, **sides, "conditions": Conditions(**row["conditions"])})


def _parse_verdict(plain: Mapping[str, Any]) -> Verdict:
    details = plain["details"] if "details" in plain else plain["said"]  # in version 1
    return Verdict(plain["check"], plain["passed"], details)


def parse_accuracy(plain: Mapping[str, Any]) -> Accuracy:
    """An accuracy as ``results.json`` has it: null where nothing was measured."""
    value, low, high = (math.nan if plain[key] is None else float(plain[key]) for key in ("value", "low", "high"))
    return Accuracy(value, low, high, int(plain["count"]))


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not measured is null."""
    plain = {key: _without_nan(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: None if value != value else value for key, value in plain.items()}


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
