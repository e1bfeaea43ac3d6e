"""A run's folder, read back: all that its page shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hetpure.errors import ConfigError
from hetpure.runs.honesty import Verdict
from hetpure.runs.images import Pictures, Samples, load_pictures, load_samples
from hetpure.runs.names import protocol_names
from hetpure.runs.records import Record, RecordStore
from hetpure.runs.results import Conditions, Report, TableRow, table_rows

CONFIG, CONTENT, RESULTS, TABLE = "config.yaml", "content.yaml", "results.json", "table.json"
SAMPLES, PICTURES = "samples.npz", "pictures.npz"


@dataclass(frozen=True)
class Method:
    """One row of a run.

    Attributes:
        name: of the row, perhaps METHOD/COLUMN.
        store: its records on disk.
        records: of all finished samples, under every protocol.
        rows: its lines of the table, one a protocol.
        variants: records of the honesty checks, by variant.
        pictures: steps of some samples, where they were drawn.
        score: what the one-shot scores are, in words.
    """

    name: str
    store: RecordStore
    records: Sequence[Record]
    rows: Sequence[TableRow]
    variants: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    pictures: Pictures | None = None
    score: str = "scores"

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
        report: table, notes and honesty checks, the table counted from the records.
        methods: its rows, in the config's order.
        samples: what the samples are.
        config: the resolved config.
        texts: ``config.yaml`` and ``content.yaml`` as they stand, by name.
        table: a table in print beside this run's figures, where there is one.
        problems: files that could not be read, a line each.
    """

    path: Path
    report: Report
    methods: Sequence[Method]
    samples: Samples
    config: Mapping[str, Any]
    texts: Mapping[str, str]
    table: Mapping[str, Any] | None = None
    problems: Sequence[str] = ()


def read_folder(folder: Path) -> RunFolder:
    """Reads a run's folder, finished or not; only ``config.yaml`` must be there.

    Raises:
        ConfigError: where the folder is no evaluation's.
    """
    problems: list[str] = []
    config = _config(folder)
    results = _results(folder, problems)
    samples = _samples(folder, problems)
    known = {(row["method"], row["protocol"]): row for row in results["rows"]}
    named = {row["method"] for row in results["rows"]}
    methods = []
    for name, changes in _rows(config).items():
        row_config = {**config, **(changes or {})}
        method = _method(folder, name, row_config, known, len(samples.indices), problems)
        if method.records or name in named or not named:  # a row of a table that cannot run here is in its table alone
            methods.append(method)
    checks = {
        name: [Verdict(**verdict) for verdict in verdicts] for name, verdicts in (results.get("honesty") or {}).items()
    }
    lines = [row for method in methods for row in method.rows]
    texts = {name: text for name in (CONFIG, CONTENT) if (text := _text(folder / name, problems)) is not None}
    report = Report(results["title"], lines, results["notes"], checks, results.get("blind", {}))
    table = _table(folder, problems)
    return RunFolder(folder, report, methods, samples, config, texts, table, problems)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        if isinstance(config, dict) and isinstance(config.get("rows"), dict) and "purifier" in config:
            return config
        said = f"{CONFIG} is not an evaluation's"
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
    raise ConfigError(f"{folder}: is no evaluation's folder: {said}")


def _rows(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rows' changes by name, as ``row_configs`` has them."""
    if not config["rows"] and not (config.get("table") or {}).get("lines"):
        return {str(config["purifier"]["name"]): {}}
    return dict(config["rows"])


def _results(folder: Path, problems: list[str]) -> dict[str, Any]:
    """``results.json``, or what stands in for it before a run has written one."""
    text = _text(folder / RESULTS, problems)
    try:
        found = json.loads(text) if text is not None else None
        if found is not None:
            return {"title": str(found["title"]), "rows": found["rows"], "notes": found["notes"], **found}
    except (ValueError, TypeError, KeyError):
        problems.append(f"{RESULTS} is damaged; the same command writes it again")
    return {"title": "a run that has written no table yet", "rows": [], "notes": [], "honesty": {}}


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
    config: Mapping[str, Any],
    known: Mapping[tuple[str, str], Mapping[str, Any]],
    total: int,
    problems: list[str],
) -> Method:
    names = protocol_names(config["protocols"]["resubmissions"], config["protocols"]["votes"])
    place = folder / name
    store = RecordStore(place, names)
    records = store.read()
    row = known.get((name, names[0]), {})
    conditions = Conditions(**row["conditions"]) if row else None
    total = row.get("total") or total or len({record.index for record in records})
    pictures = None
    try:
        pictures = load_pictures(place / PICTURES)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problems.append(f"{name}/{PICTURES} cannot be read: {error}")
    variants = {}
    if config["honesty"]["images"]:
        variants = {path.name: RecordStore(path).read() for path in sorted(place.glob("honesty/*")) if path.is_dir()}
    score = {"mean_logits": "mean logits", "mean_probs": "mean probabilities", "vote": "shares of votes"}
    return Method(
        name,
        store,
        records,
        table_rows(name, records, total, names, conditions),
        variants,
        pictures,
        score.get(config["ensemble"]["mode"], "scores"),
    )


def _table(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    if not (folder / TABLE).exists():
        return None
    text = _text(folder / TABLE, problems)
    try:
        found = json.loads(text) if text is not None else None
        if found is None or (isinstance(found.get("columns"), list) and isinstance(found.get("rows"), list)):
            return found
    except (ValueError, AttributeError):
        pass
    problems.append(f"{TABLE} is damaged")
    return None


def _text(file: Path, problems: list[str]) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {' '.join(str(error).split())}")
        return None
