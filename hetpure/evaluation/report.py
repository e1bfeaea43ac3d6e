"""The report of a run that is under way: made again from what its folder holds."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.evaluation.build import Row
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.departures import departures
from hetpure.evaluation.pictures import draw_pictures, keep_pictures, recorded_pictures
from hetpure.evaluation.resolve import Resolved
from hetpure.models.classifiers import RANDOM
from hetpure.reports import write_reports
from hetpure.reports.dashboard import Dashboard
from hetpure.runs.convergence import is_random, verdict, with_verdict
from hetpure.runs.honesty import Verdict, blind, certificates, check
from hetpure.runs.read import RunFolder, read_run
from hetpure.runs.records import Record
from hetpure.runs.results import Report, TableRow, notes_on, table_rows, write_results

CONVERGED = {True: "converged", False: "NOT CONVERGED", None: "perhaps not converged"}


class RunReport:
    """The report of a run: of the rows that are evaluated now, and of the others as they were evaluated before.

    Attributes:
        written: the last one, which looks at every record and image; None before.
    """

    def __init__(self, resolved: Resolved) -> None:
        config = resolved.config
        self.config, self.data, self.rows, self.absent = config, resolved.data, resolved.rows, resolved.absent
        self.folder = Path(config.output)
        self.departures = departures(config)
        self.written: Report | None = None

    def make(self) -> Report:
        """Counts what the folder holds."""
        notes = [f"grid: {name} is left out: {reason}" for name, reason in self.config.left_out.items()]
        lines, checks, blinded = [], {}, {}
        for row in self.rows:
            records = row.store.outcomes()
            lines += _table_rows(row, records, self.data)
            notes += notes_on(row.name, records, int(self.config.chunk_size))
            if row.checkpoints:
                first = [record for record in records if record.protocol == row.protocols[0].name]
                found = verdict(first, _doubled(row), is_random(row.conditions))
                notes.append(f"{row.name}: the attack has {CONVERGED[found.passed]}: {found.details}")
            if self.config.honesty.images and row.attack is not None:
                checks[row.name] = honesty_verdicts(row, records, self.config.honesty.factor, self.data)
            if row.certify is not None:
                checks.setdefault(row.name, []).append(certificates(records, row.certify.n, row.certify.alpha))
            if images := blind(records):
                blinded[row.name] = images
        if self.absent:
            before = read_run(self.folder)
            for method in before.methods:
                if method.name in self.absent and method.records:
                    lines += method.rows
                    notes += notes_on(method.name, method.records, method.settings["chunk_size"])
            order = list(self.config.rows)
            lines.sort(key=lambda line: order.index(line.method))
            checks |= {name: before.report.checks[name] for name in self.absent if name in before.report.checks}
            blinded |= {name: before.report.blind[name] for name in self.absent if name in before.report.blind}
        shown, rows = {line.method for line in lines}, self.config.rows.items()
        untrained = [name for name, row in rows if name in shown and row.classifier["weights"] == RANDOM]
        if untrained:
            notes.append(f"{', '.join(untrained)}: the classifier is untrained (classifier.weights: {RANDOM})")
        missing = {name: reasons for name, reasons in self.absent.items() if reasons}
        return Report(describe(self.config), lines, notes, checks, blinded, missing, self.departures)

    def write(self) -> Report:
        """Writes ``results.json``."""
        report = self.written = self.make()
        try:
            write_results(report, self.folder)
        except OSError as error:
            print(f"{self.folder}: the results cannot be written: {error.strerror}", file=sys.stderr)
        return report

    def show(self) -> RunFolder:
        """Writes and prints the tables, and writes the page."""
        self.write()
        run = write_reports(self.folder)
        page = self.folder / "report.html"
        print(f"records, adversarial images, pictures and tables: {self.folder}; to look at: {page}")
        return run


def finish_row(row: Row, data: ImageDataModule, pictures: int, dashboard: Dashboard) -> None:
    """Scalars, loss curve and pictures (at most so many) of a finished row, for the dashboard and the folder."""
    records = row.store.outcomes()
    dashboard.rows(_table_rows(row, records, data), calls_per_image(row, records))
    one_shot = row.protocols[0].name
    curves = [record.attack_loss for record in records if record.protocol == one_shot and record.attack_loss]
    if curves:
        # Attacks that leave broken samples alone have curves of different lengths.
        columns = [[x for x in column if x is not None] for column in itertools.zip_longest(*curves)]
        dashboard.curve(row.name, [sum(column) / len(column) for column in columns])
    picture_rows, amplification = recorded_pictures(row.model, row.store, data, pictures)
    if picture_rows:
        keep_pictures(picture_rows, amplification, row.store.folder)
        file = row.store.folder / "pictures.png"
        title = f"{row.name}; {row.conditions.attack}, {row.conditions.gradients}"
        try:
            draw_pictures(picture_rows, amplification, title, file)
        except OSError as error:
            print(f"{file}: {error.strerror}; going on without it", file=sys.stderr)
        else:
            dashboard.picture(row.name, file)


def calls_per_image(row: Row, records: Sequence[Record]) -> dict[str, float]:
    """Denoiser calls an image: the part of the cost that no machine changes; nothing where no sample has a result.

    ``defense_calls`` are those of all predictions; ``attack_calls`` those of the gradients that were taken and of the
    images that were tried out to judge them (``GradientSource.evaluate``), not those of attacks without gradients.
    """
    finished = [record for record in records if record.failure is None]
    if not finished:
        return {}
    purifications = max(record.draws for record in finished)
    sides = 2 if any(record.adversarial for record in finished) else 1
    calls = {"defense_calls": float(purifications * sides * row.model.network_calls)}
    if row.attack is not None and row.gradient is not None:
        first = [record for record in finished if record.protocol == row.protocols[0].name]
        each = row.attack.purifications(row.gradient)
        purifications = sum(each * len(record.attack_loss) + record.trials for record in first) / len(first)
        calls["attack_calls"] = purifications * row.gradient.process.network_calls
    return calls


def honesty_verdicts(row: Row, records: Sequence[Record], factor: int, data: ImageDataModule) -> list[Verdict]:
    """The honesty checks of a row, from the records of it and its variants."""
    one_shot = [record for record in records if record.protocol == row.protocols[0].name]
    threat = row.attack.threat if row.attack is not None else None
    return check(
        one_shot,
        {name: variant.store.outcomes() for name, variant in row.variants.items()},
        factor,
        saved=row.store.adversarial,
        clean=lambda index: item(data.test_source, index)["image"].numpy(),
        run_length=row.attack.run_length if row.attack is not None else None,
        norm=threat.norm if threat else None,
        eps=threat.eps if threat else None,
    )


def describe(config: RunSettings) -> str:
    """What the rows have in common, in a line."""
    skipped = f" after {config.data.subset_skip}" if config.data.subset_skip else ""
    subset = f"{config.data.subset} images{skipped} of " if config.data.subset else ""
    text = f"{subset}{config.data.name}; seed {config.seed}; chunks of {config.chunk_size}, {config.threads} threads"
    text += f"; networks in {config.precision}" if config.precision != "float32" else ""
    return text + ("; networks compiled" if config.compile else "")


def _table_rows(row: Row, records: Sequence[Record], data: ImageDataModule) -> list[TableRow]:
    names = [protocol.name for protocol in row.protocols]
    radii = row.certify.radii if row.certify is not None else ()
    rows = table_rows(row.name, records, len(data.indices), names, row.conditions, radii)
    return with_verdict(rows, records, _doubled(row))


def _doubled(row: Row) -> list[Record] | None:
    """Records of the variant with more EOT draws, where there is one."""
    return row.variants["more_eot"].store.outcomes() if "more_eot" in row.variants else None
