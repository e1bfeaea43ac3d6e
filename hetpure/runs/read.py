"""A run folder, read back: all that is shown of a run, finished or not. ``docs/run-folder.md`` describes the format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hetpure.config import merge
from hetpure.errors import ConfigError
from hetpure.runs.files import CONFIG, CONTENT, PICTURES, RESULTS, SAMPLES, format_version, read_config, read_mapping
from hetpure.runs.images import Pictures, Samples, load_pictures, load_samples
from hetpure.runs.names import check_row_name, protocol_names
from hetpure.runs.records import Record, RecordStore
from hetpure.runs.results import Conditions, Report, TableRow, parse_results, table_rows

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "protocols": {"resubmissions": 1, "votes": 0},
    "ensemble": {"mode": None},
    "honesty": {"images": 0},
    "data": {"root": None},
    "grid": {},
    "table": {},
}
"""What ``config.yaml`` may leave out, as far as reading goes."""


@dataclass(frozen=True)
class Method:
    """One row of a run.

    Attributes:
        name: of the row, perhaps METHOD/COLUMN.
        settings: its resolved config.
        store: its records on disk.
        records: of all finished samples, under every protocol.
        rows: its lines of the table, one a protocol.
        variants: records of the honesty checks, by variant.
        pictures: steps of some samples, where they were drawn.
    """

    name: str
    settings: Mapping[str, Any]
    store: RecordStore
    records: Sequence[Record]
    rows: Sequence[TableRow]
    variants: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    pictures: Pictures | None = None

    @property
    def group(self) -> str:
        """What stands before the last ``/`` of the name; empty where there is none."""
        return self.name.rpartition("/")[0]

    @property
    def one_shot(self) -> list[Record]:
        """Records under the first protocol."""
        return [record for record in self.records if record.protocol == self.rows[0].protocol]


@dataclass(frozen=True)
class RunFolder:
    """All of a run.

    Attributes:
        path: the folder.
        report: table, notes and honesty checks; the table is counted from the records.
        methods: its rows, in the config's order.
        samples: what the samples are.
        config: the resolved config.
        texts: ``config.yaml`` and ``content.yaml`` as they stand, by name.
        problems: files that could not be read, a line each.
    """

    path: Path
    report: Report
    methods: Sequence[Method]
    samples: Samples
    config: Mapping[str, Any]
    texts: Mapping[str, str]
    problems: Sequence[str] = ()


def read_run(folder: Path) -> RunFolder:
    """Reads a run's folder, finished or not; only ``config.yaml`` must be there.

    Raises:
        ConfigError: where the folder is no evaluation's, or of a newer format.
    """
    problems: list[str] = []
    config = read_settings(folder)
    report = _report(folder, problems)
    samples = _samples(folder, problems)
    known = {(row.method, row.protocol): row for row in report.rows}
    named = {row.method for row in report.rows}
    methods = []
    for name, settings in row_settings(config).items():
        method = _method(folder, name, settings, known, len(samples.indices), problems)
        if method.records or name in named or not named:  # a row of a table that cannot run here is in its table alone
            methods.append(method)
    report = replace(report, rows=[row for method in methods for row in method.rows])
    texts = {name: text for name in (CONFIG, CONTENT) if (text := _text(folder / name, problems)) is not None}
    return RunFolder(folder, report, methods, samples, config, texts, problems)


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved config of an evaluation, in today's words, with the ``DEFAULTS`` of what it leaves out.

    Raises:
        ConfigError: where the folder is no evaluation's, or of a newer format.
    """
    format_version(folder)
    config = merge(DEFAULTS, read_config(folder, "evaluation's"))
    sections = {key: config.get(key) for key in ("rows", "purifier", *DEFAULTS) if key != "seed"}
    wrong = [key for key, section in sections.items() if not isinstance(section, dict)]
    wrong = wrong or [f"rows.{name}" for name, row in config["rows"].items() if not isinstance(row or {}, dict)]
    if wrong:
        raise ConfigError(f"{folder}: is no evaluation's folder: {CONFIG}: {wrong[0]} is not a section of keys")
    for name in row_settings(config):
        check_row_name(name)
    return config


def row_settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The resolved config of each row, by name; a config without rows is one row, named after its purifier."""
    whole = {key: value for key, value in config.items() if key != "rows"}
    rows = config["rows"]
    if not rows and not config["table"].get("lines"):
        rows = {str(config["purifier"].get("name")): {}}
    return {str(name): {**whole, **(changes or {})} for name, changes in rows.items()}  # a row holds whole sections


def read_results(folder: Path) -> Report:
    """What ``results.json`` says of a finished or interrupted run.

    Raises:
        ConfigError: where there is none, or it is damaged.
    """
    format_version(folder)
    content = read_mapping(folder / RESULTS, "finished run's")
    try:
        return parse_results(content)
    except KeyError as error:
        reason = f"{RESULTS} lacks {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = f"{RESULTS}: {' '.join(str(error).split())}"
    raise ConfigError(f"{folder}: is no finished run's folder: {reason}")


def _report(folder: Path, problems: list[str]) -> Report:
    """``results.json``, or what stands in for it before a run has written one."""
    if (folder / RESULTS).exists():
        try:
            return read_results(folder)
        except ConfigError:
            problems.append(f"{RESULTS} is damaged; the same command writes it again")
    return Report("a run that has written no table yet", [])


def _samples(folder: Path, problems: list[str]) -> Samples:
    try:
        return load_samples(folder / SAMPLES)
    except FileNotFoundError:
        problems.append(
            f"{SAMPLES} is missing: clean images and names of classes are not shown; the same command adds it"
        )
    except (OSError, ValueError) as error:
        problems.append(f"{SAMPLES} cannot be read: {error}")
    return Samples([], [], {})


def _method(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    known: Mapping[tuple[str, str], TableRow],
    total: int,
    problems: list[str],
) -> Method:
    names = protocol_names(settings["protocols"]["resubmissions"], settings["protocols"]["votes"])
    place = folder / name
    store = RecordStore(place, names)
    records = store.read()
    row = known.get((name, names[0]))
    total = (row.total if row else 0) or total or len({record.index for record in records})
    pictures = None
    try:
        pictures = load_pictures(place / PICTURES)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problems.append(f"{name}/{PICTURES} cannot be read: {error}")
    variants = {}
    if settings["honesty"]["images"]:
        variants = {path.name: RecordStore(path).read() for path in sorted(place.glob("honesty/*")) if path.is_dir()}
    unknown = Conditions("unknown", "unknown") if any(record.adversarial for record in records) else Conditions()
    rows = table_rows(name, records, total, names, row.conditions if row else unknown)
    return Method(name, settings, store, records, rows, variants, pictures)


def _text(file: Path, problems: list[str]) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {' '.join(str(error).split())}")
        return None
