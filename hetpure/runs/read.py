"""Reads a run folder, finished or not. ``docs/reference/run-folder.md`` describes the format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hetpure.config import merge
from hetpure.errors import ConfigError
from hetpure.runs import files
from hetpure.runs.convergence import with_verdict
from hetpure.runs.images import Pictures, Samples, load_pictures, load_samples
from hetpure.runs.names import check_row_name, default_row_name, protocol_names
from hetpure.runs.records import Expected, Record
from hetpure.runs.results import Conditions, Report, TableRow, parse_results, table_rows
from hetpure.runs.store import RecordStore

T = TypeVar("T")

DEFAULTS: dict[str, Any] = {
    "rows": {}, "seed": 0, "protocols": {"resubmissions": 1, "votes": 0}, "ensemble": {"mode": None},
    "honesty": {"images": 0}, "certify": {}, "data": {"root": None}, "grid": {}, "table": {},
}  # fmt: skip
"""Keys that a reader needs and that ``config.yaml`` may leave out."""


@dataclass(frozen=True)
class Method:
    """One row of a run."""

    name: str  # perhaps METHOD/COLUMN
    settings: Mapping[str, Any]  # its resolved config
    store: RecordStore
    records: Sequence[Record]  # of all finished samples, under every protocol; without scores, which ``store`` has
    rows: Sequence[TableRow]  # of the table, one for each protocol
    variants: Mapping[str, Sequence[Record]] = field(default_factory=dict)  # records of the honesty checks' attacks
    pictures: Pictures | None = None

    @property
    def one_shot(self) -> list[Record]:
        """Records under the first protocol."""
        return [record for record in self.records if record.protocol == self.rows[0].protocol]


@dataclass(frozen=True)
class RunFolder:
    """The content of a run folder."""

    path: Path
    report: Report  # its table is counted from the records
    methods: Sequence[Method]  # in the config's order
    samples: Samples
    config: Mapping[str, Any]  # resolved
    texts: Mapping[str, str]  # config.yaml and content.yaml, by name
    problems: Sequence[str] = ()  # one line for each file that could not be read


def read_run(folder: Path) -> RunFolder:
    """Reads a run folder, finished or not; only ``config.yaml`` is required.

    Raises:
        ConfigError: if it is not an evaluation's folder, or has a newer format.
    """
    problems: list[str] = []
    config, results = read_settings(folder), None
    if (folder / files.RESULTS).exists():
        try:
            results = read_results(folder)
        except ConfigError:
            problems.append(f"{files.RESULTS} is damaged; running the same command again rewrites it")
    if (folder / files.RUN).exists() and files.undamaged(folder / files.RUN) is None:
        problems.append(f"{files.RUN} is damaged; running the same command again rewrites it")
    if not (folder / files.SAMPLES).exists():
        problems.append(f"{files.SAMPLES} is missing, so clean images and class names are not shown")
    samples = _optional(load_samples, folder, files.SAMPLES, problems) or Samples([], [], {})
    report = results or Report("a run that has not written a table yet", [])
    known = {row.method: row for row in report.rows if row.protocol == protocol_names()[0]}
    in_table = {row.method for row in report.rows}
    methods = []
    for name, settings in row_settings(config).items():
        method = _method(folder, name, settings, known.get(name), samples.indices, problems)
        if method.records or name in in_table or results is None:  # else a row that could not be evaluated
            methods.append(method)
    report = replace(report, rows=[row for method in methods for row in method.rows])
    read_text = partial(Path.read_text, encoding="utf-8")
    texts = {name: _optional(read_text, folder, name, problems) for name in (files.CONFIG, files.CONTENT)}
    texts = {name: text for name, text in texts.items() if text is not None}
    return RunFolder(folder, report, methods, samples, config, texts, problems)


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved config of an evaluation, with today's keys and the ``DEFAULTS`` of those it leaves out.

    Raises:
        ConfigError: if it is not an evaluation's folder, or has a newer format.
    """
    files.format_version(folder)
    config = merge(DEFAULTS, files.read_config(folder, "evaluation's"))
    config["certify"] = config["certify"] or {}  # null: nothing is certified
    sections = {key: config.get(key) for key in ("purifier", *DEFAULTS) if key != "seed"}
    if isinstance(config["rows"], dict):
        sections |= {f"rows.{name}": row or {} for name, row in config["rows"].items()}
    for key, section in sections.items():
        if not isinstance(section, dict):
            problem = f"is not an evaluation's folder: {files.CONFIG}: {key} is not a section of keys"
            raise ConfigError(str(folder), problem)
    radii = config["certify"].get("radii", [])
    if not isinstance(radii, list) or not all(isinstance(radius, int | float) for radius in radii):
        raise ConfigError(str(folder), f"is not an evaluation's folder: {files.CONFIG}: certify.radii is not numbers")
    for name in row_settings(config):
        check_row_name(name)
    return config


def row_settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The resolved config of each row, by name; a config without rows is one row, named after its purifier."""
    whole = {key: value for key, value in config.items() if key != "rows"}
    rows = config["rows"]
    if not rows and not config["table"].get("lines"):
        rows = {default_row_name(str(config["purifier"].get("name"))): {}}
    return {str(name): {**whole, **(changes or {})} for name, changes in rows.items()}  # rows change whole sections


def read_results(folder: Path) -> Report:
    """Reads ``results.json``.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    files.format_version(folder)
    content = files.read_mapping(folder / files.RESULTS, "finished run's")
    try:
        return parse_results(content)
    except KeyError as error:
        reason = f"{files.RESULTS} lacks {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = f"{files.RESULTS}: {files.one_line(error)}"
    raise ConfigError(str(folder), f"is not a finished run's folder: {reason}")


def _method(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    known: TableRow | None,
    samples: Sequence[int],
    problems: list[str],
) -> Method:
    protocols = protocol_names(settings["protocols"]["resubmissions"], settings["protocols"]["votes"])
    store = _store(folder, name, protocols, samples, problems)
    records = store.outcomes()
    attacked = any(record.adversarial for record in records)
    conditions = Conditions("unknown", "unknown") if attacked else Conditions()  # only results.json has them
    total = len(samples)
    if known is not None:
        total, conditions = known.total or total, known.conditions
    total = total or len({record.index for record in records})
    rows = table_rows(name, records, total, protocols, conditions, settings["certify"].get("radii", ()))
    variants = {}
    if settings["honesty"]["images"]:
        for path in sorted((folder / name).glob("honesty/*/")):
            variant = f"{name}/honesty/{path.name}"
            variants[path.name] = _store(folder, variant, protocol_names(), samples, problems).outcomes()
    rows = with_verdict(rows, records, variants.get("more_eot"))
    pictures = _optional(load_pictures, folder, f"{name}/{files.PICTURES}", problems)
    return Method(name, settings, store, records, rows, variants, pictures)


def _store(
    folder: Path, name: str, protocols: Sequence[str], samples: Sequence[int], problems: list[str]
) -> RecordStore:
    """Records as far as they are whole and of this run; what else there is becomes a problem."""
    expected = Expected(samples={*samples} or None, settings=files.settings_of(folder).get(name))
    store = RecordStore(folder / name, protocols, expected=expected)
    problems += [f"{name.rpartition('/')[0]}/{text}".lstrip("/") for text in store.problems()]
    return store


def _optional(load: Callable[[Path], T], folder: Path, name: str, problems: list[str]) -> T | None:
    """The content of a file; None if it is missing, and also, with a line in ``problems``, if it cannot be read."""
    try:
        return load(folder / name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{name} cannot be read: {files.one_line(error)}")
        return None
