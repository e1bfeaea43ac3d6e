"""The results of a run: accuracies with their intervals, counted from records; ``results.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scipy.special import ndtri

from hetpure.runs.files import FORMAT_VERSION, RESULTS, write_whole
from hetpure.runs.records import Record, Side


@dataclass(frozen=True)
class Accuracy:
    """A share of samples with its 95 % Wilson interval, all in 0..1; NaN if there are no samples."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    count: int = 0

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.count else "-"


@dataclass(frozen=True)
class Conditions:
    """How a row was really measured."""

    attack: str = "no attack"
    gradients: str = "-"  # "exact", or what the surrogate attack process changes
    eot: int = 1  # draws per gradient; 1 for a purifier without randomness
    ensemble: int = 1  # purifications per prediction, likewise
    network_calls: int | None = None  # of denoisers for the logits of one draw; None where an older run does not say
    gradient_calls: int | None = None  # of the denoiser in one gradient, forward; likewise
    norm: str | None = None  # of the attack's threat model; None where it declares none or an older run does not say


@dataclass(frozen=True)
class TableRow:
    """One method under one protocol. Both accuracies are through the defense."""

    method: str
    images: int  # samples with a result
    total: int  # samples to evaluate
    standard: Accuracy  # on clean images
    robust: Accuracy  # on adversarial images
    seconds: float  # computing time of the attack and all protocols, summed over processes
    conditions: Conditions = field(default_factory=Conditions)
    protocol: str = "one-shot"
    failed: int = 0  # samples without a result, which count in neither accuracy
    converged: bool | None = None  # see ``convergence.verdict``; None where that was not tried, or cannot be told
    certified: Mapping[str, Accuracy] = field(default_factory=dict)  # by radius, as text; see ``certified_accuracy``


@dataclass(frozen=True)
class Verdict:
    """The outcome of one honesty check."""

    check: str
    passed: bool | None  # None if it does not apply, lacks records, or cannot tell
    details: str  # the numbers, in words

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "no verdict"}[self.passed]
        return f"{self.check}: {mark}. {self.details}"


@dataclass(frozen=True)
class Report:
    """The results of a run."""

    title: str  # what the rows have in common
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()  # what a reader must know about how the results were obtained
    checks: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)  # verdicts of the honesty checks by method
    blind: Mapping[str, str] = field(default_factory=dict)  # see ``honesty.blind``, by method; only those that it names
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by row that could not be evaluated: its lacks
    departures: Sequence[str] = ()  # how the settings differ from those of the published table that it is compared with

    @property
    def warning(self) -> str | None:
        """What must be read before any number: a check failed, an attack saw no gradients, or has not converged."""
        failed = {method: [v.check for v in verdicts if v.passed is False] for method, verdicts in self.checks.items()}
        failing = "; ".join(f"{method}: {', '.join(names)}" for method, names in failed.items() if names)
        blind = "; ".join(f"{method}: {images}" for method, images in self.blind.items())
        fails = f"THIS REPORT FAILS ITS HONESTY CHECKS ({failing}). Do not rely on its robust accuracies."
        zero = f"THE ATTACK SAW NO GRADIENT ({blind}): every gradient was zero, so the robust accuracy means nothing."
        open_ended = ", ".join(dict.fromkeys(row.method for row in self.rows if row.converged is False))
        weak = f"THE ATTACK HAS NOT CONVERGED ({open_ended}): a longer one leaves fewer images right."
        every = ((fails, failing), (zero, blind), (weak, open_ended))
        return " ".join(text for text, named in every if named) or None


def write_results(report: Report, folder: Path) -> None:
    """Writes ``results.json``; null stands for what was not measured.

    Raises:
        OSError: if it cannot be written; the old file stays.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "title": report.title,
        "warning": report.warning,
        "rows": [plain_row(row) for row in report.rows],
        "notes": list(report.notes),
        "blind": dict(report.blind),
        "honesty": {method: [asdict(verdict) for verdict in verdicts] for method, verdicts in report.checks.items()},
        "missing": {name: list(reasons) for name, reasons in report.missing.items()},
        "departures": list(report.departures),
    }
    write_whole(folder / RESULTS, json.dumps(content, indent=2, allow_nan=False))


def plain_row(row: TableRow) -> dict[str, Any]:
    """A row as in ``results.json``, where null stands for NaN."""
    plain = asdict(row)
    accuracies = [plain["standard"], plain["robust"], *plain["certified"].values()]
    for accuracy in accuracies:
        accuracy |= {key: None for key, value in accuracy.items() if value != value}
    return plain


def parse_results(content: Mapping[str, Any]) -> Report:
    """The report in the content of a ``results.json`` of any version.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: if it is not one.
    """
    checks = {
        # Version 1 has "said" for "details".
        name: [Verdict(v["check"], v["passed"], v["details"] if "details" in v else v["said"]) for v in verdicts]
        for name, verdicts in (content.get("honesty") or {}).items()
    }
    rows, notes = [_parse_row(row) for row in content["rows"]], list(content["notes"])
    blind, missing = (dict(content.get(key) or {}) for key in ("blind", "missing"))
    return Report(str(content["title"]), rows, notes, checks, blind, missing, list(content.get("departures") or ()))


def parse_accuracy(plain: Mapping[str, Any]) -> Accuracy:
    """An accuracy as in ``results.json``, where null stands for NaN."""
    value, low, high = (math.nan if plain[key] is None else float(plain[key]) for key in ("value", "low", "high"))
    return Accuracy(value, low, high, int(plain["count"]))


def _parse_row(row: Mapping[str, Any]) -> TableRow:
    sides = {side: parse_accuracy(row[side]) for side in ("standard", "robust")}
    certified = {radius: parse_accuracy(plain) for radius, plain in (row.get("certified") or {}).items()}
    return TableRow(**{**row, **sides, "certified": certified, "conditions": Conditions(**row["conditions"])})


def accuracy(records: Sequence[Record], side: Side) -> Accuracy:
    """Accuracy of the records' clean or adversarial predictions."""
    outcomes = [right for record in records if (right := record.right(side)) is not None]
    return wilson(sum(outcomes), len(outcomes)) if outcomes else Accuracy()


def certified_accuracy(records: Sequence[Record], radius: float) -> Accuracy:
    """Share of the records with a certificate that certify their label within a radius; abstentions do not."""
    found = [(record.certificate, record.label) for record in records if record.certificate is not None]
    certified = sum(each.label == label and each.radius >= radius for each, label in found)
    return wilson(certified, len(found)) if found else Accuracy()


def wilson(right: int, count: int) -> Accuracy:
    """The accuracy of some right samples among ``count``, at least 1, with its 95 % interval.

    The interval is Wilson's, as in Newcombe (1998), "Two-sided confidence intervals for the single proportion".
    ``scipy.stats.binomtest`` gives the same numbers, but takes a third of a second to import.
    """
    z, share = float(ndtri(0.975)), right / count
    scale = 2 * (count + z**2)
    center = (2 * count * share + z**2) / scale
    half = z / scale * math.sqrt(4 * count * share * (1 - share) + z**2)
    return Accuracy(share, center - half if right else 0.0, center + half if right < count else 1.0, count)


def table_rows(
    method: str,
    records: Sequence[Record],
    total: int,
    protocols: Sequence[str],
    conditions: Conditions | None = None,
    radii: Sequence[float] = (),
) -> list[TableRow]:
    """A method's rows of the table, one for each protocol, counted from its records.

    A row whose records have certificates has the certified accuracy at each of ``radii``.
    """
    rows = []
    for protocol in protocols:
        own = [record for record in records if record.protocol == protocol]
        failed = sum(record.failure is not None for record in own)
        standard, robust = accuracy(own, "clean"), accuracy(own, "adversarial")
        seconds = sum(record.seconds for record in own)
        images, shown = len(own) - failed, conditions or Conditions()
        certified = {f"{radius:g}": each for radius in radii if (each := certified_accuracy(own, radius)).count}
        rows.append(
            TableRow(method, images, total, standard, robust, seconds, shown, protocol, failed, certified=certified)
        )
    return rows


def notes_on(method: str, records: Sequence[Record], chunk_size: int) -> list[str]:
    """Notes on samples that failed, left the attack early, were not certified, or needed smaller chunks."""
    first, notes = {record.index: record for record in records}.values(), []
    failed = [record for record in first if record.failure is not None]
    if failed:
        examples = "; ".join(f"sample {record.index}: {record.failure}" for record in failed[:3])
        notes.append(f"{method}: {len(failed)} of {len(first)} samples failed and count in no accuracy; {examples}")
    left = [record.left_after for record in first if record.left_after is not None]
    if left:
        after = f"after {sum(left) / len(left):.3g} iterations in the mean"
        notes.append(f"{method}: {len(left)} of {len(first)} images left the attack early, surely broken, {after}")
    certificates = [record.certificate for record in records if record.certificate is not None]
    if certificates:
        abstained = sum(certificate.label is None for certificate in certificates)
        notes.append(f"{method}: {abstained} of {len(certificates)} certificates abstain and count as not certified")
    smaller = [record for record in first if any(size < chunk_size for size in record.chunks.values())]
    if smaller:
        sizes = sorted({size for record in smaller for size in record.chunks.values()})
        notes.append(
            f"{method}: memory ran out; {len(smaller)} of {len(first)} samples went through the networks in chunks of "
            f"{', '.join(map(str, sizes))} rows, not {chunk_size}, and are bit-identical only at those sizes"
        )
    return notes
