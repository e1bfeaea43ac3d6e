"""Tables of methods by columns: each row of the config is a method, and is evaluated once for each column.

What is evaluated are ordinary rows, named ``METHOD/COLUMN``. ``table.lines`` of the completed config says how they are
laid out; it is made here, and a config that has it is laid out already.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hetpure.config import merge, structure, to_dict
from hetpure.errors import ConfigError
from hetpure.reports.tables.printed import PrintedTable, printed_names, printed_table
from hetpure.runs.names import protocol_names

Side = Literal["standard", "robust", "average"]

CHANGES = ("classifier", "denoiser", "purifier", "attack", "ensemble")
"""Sections that a column may change."""


@dataclass
class ColumnConfig:
    """A column: what it changes in every row, and what it shows.

    ``side``: standard or robust accuracy, or their mean. ``of`` names another column whose evaluation is shown instead
    of one of its own; a ``standard`` column shows the first that a row has. ``protocol``: by which to judge.
    """

    title: str | None = None
    side: Side = "robust"
    of: str | None = None
    protocol: str = "one-shot"
    classifier: dict[str, Any] = field(default_factory=dict)
    denoiser: dict[str, Any] = field(default_factory=dict)
    purifier: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] = field(default_factory=dict)
    ensemble: dict[str, Any] = field(default_factory=dict)


@dataclass
class LineConfig:
    """A line of the table: keys that a row may have beside its changes, and where its cells come from.

    ``printed`` is the method's name in the printed table. ``reason`` says why a row can never be evaluated here.
    ``columns`` is a list of the columns that are evaluated, or each column's further changes. ``cells`` and ``missing``
    are made by the layout: the evaluated row behind each column, and why there is none.
    """

    label: str | None = None
    printed: str | None = None
    kind: str | None = None
    note: str | None = None
    reason: str | None = None
    columns: Any = None
    cells: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Any] = field(default_factory=dict)


@dataclass
class TableConfig:
    """A table: a printed one to stand beside (``table1`` to ``table8``), a title, columns in order."""

    printed: str | None = None
    title: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One row that is evaluated.

    Attributes:
        base: raw config that the row changes.
        change: the row's changes.
        changed: sections that differ from the whole config's.
        method: the row's name in the file.
        column: of the table; None for a row that is its own.
    """

    base: Mapping[str, Any]
    change: Mapping[str, Any]
    changed: Sequence[str]
    method: str
    column: str | None = None

    def blamed(self, error: ConfigError) -> ConfigError:
        """The error as one of the row, or of the column, where it is about a section that either changes."""
        section = re.split(r"[.:]", str(error), maxsplit=1)[0]
        if section in self.change:
            return type(error)(f"rows.{self.method}.{error}")
        if self.column is not None and section in self.changed:
            return type(error)(f"table.columns.{self.column}.{error} (row {self.method})")
        return error


def expand(
    base: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], table: Mapping[str, Any]
) -> tuple[dict[str, Cell], dict[str, Any]]:
    """The rows that are evaluated, by name, and the completed ``table`` section.

    Args:
        base: raw config without rows.
        rows: the config's, as name to changes.
        table: its ``table`` section.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    settings = to_dict(structure(TableConfig, table, "table"))
    if settings["lines"] or not settings["columns"]:
        for name, line in settings["lines"].items():
            if not isinstance(line, Mapping):
                raise ConfigError(f"table.lines.{name}: found {line!r}, accepted is a section of keys")
            settings["lines"][name] = to_dict(structure(LineConfig, line, f"table.lines.{name}"))
            del settings["lines"][name]["columns"]  # told apart by the layout already
        if not settings["lines"] and (settings["printed"] or settings["title"]):
            raise ConfigError("table.columns: is empty, and a table needs columns")
        return {name: Cell(base, change, tuple(change), name) for name, change in rows.items()}, settings
    columns = _columns(settings["columns"])
    paper = _printed(settings["printed"])
    cells: dict[str, Cell] = {}
    for method, row in rows.items():
        line = _line(method, row, columns, paper)
        settings["lines"][method] = line
        extra = _per_column(method, line.pop("columns"), columns)
        if line["reason"] is not None:
            continue
        change = {key: value for key, value in row.items() if key not in LineConfig.__dataclass_fields__}
        for column, changes in extra.items():
            settings_of = {key: columns[column][key] for key in CHANGES if columns[column][key]}
            name = f"{method}/{column}"
            own = merge(change, changes)
            sections = tuple({**settings_of, **own})
            cells[name] = Cell(merge(base, settings_of), own, sections, method, column)
        line["cells"] = {
            shown: f"{method}/{source}"
            for shown in columns
            if (source := columns[shown]["of"] or next(iter(extra), None)) in extra
        }
    kept = ("title", "side", "of", "protocol")
    settings["columns"] = {name: {key: column[key] for key in kept} for name, column in columns.items()}
    return cells, settings


def check_protocols(table: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a column whose protocol its rows are not judged by.

    Args:
        table: completed ``table`` section.
        rows: complete settings of the rows that are evaluated, by name.

    Raises:
        ConfigError: names the column and what is accepted.
    """
    for line in table["lines"].values():
        for column, name in line["cells"].items():
            if name not in rows:
                continue
            asked = rows[name]["protocols"]
            known = protocol_names(asked["resubmissions"], asked["votes"])
            found = table["columns"][column]["protocol"]
            if found not in known:
                raise ConfigError(
                    f"table.columns.{column}.protocol: found {found!r}, accepted are {', '.join(known)}; "
                    "protocols.resubmissions and protocols.votes add others"
                )


def _columns(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    columns = {}
    for name, change in raw.items():
        where = f"table.columns.{name}"
        _check_name(str(name), where)
        if not isinstance(change, Mapping | None):
            raise ConfigError(f"{where}: found {change!r}, accepted is a section of keys")
        columns[str(name)] = to_dict(structure(ColumnConfig, change or {}, where))
    own = [name for name, column in columns.items() if column["of"] is None and column["side"] != "standard"]
    if not own:
        raise ConfigError("table.columns: found none that is evaluated; accepted is one of side robust at least")
    for name, column in columns.items():
        if column["of"] is not None and column["of"] not in own:
            accepted = f"a column with an evaluation of its own: {', '.join(own)}"
            raise ConfigError(f"table.columns.{name}.of: found {column['of']!r}, accepted is {accepted}")
        if name not in own and (changed := [key for key in CHANGES if column[key]]):
            raise ConfigError(
                f"table.columns.{name}.{changed[0]}: changes an evaluation, and this column shows another column's"
            )
        if name in own:
            column["of"] = name
    return columns


def _line(
    method: str, row: Mapping[str, Any], columns: Mapping[str, Any], paper: PrintedTable | None
) -> dict[str, Any]:
    _check_name(method, f"rows.{method}")
    for key in ("cells", "missing"):
        if key in row:
            raise ConfigError(f"rows.{method}.{key}: is made by the table itself; accepted is columns")
    own = {key: value for key, value in row.items() if key in LineConfig.__dataclass_fields__}
    line = to_dict(structure(LineConfig, own, f"rows.{method}"))
    if paper is not None and line["printed"] is None and method in paper.rows:
        line["printed"] = method
    if line["printed"] is not None:
        if paper is None or line["printed"] not in paper.rows:
            known = list(paper.rows) if paper is not None else []
            close = difflib.get_close_matches(line["printed"], known, n=1, cutoff=0.3) or known
            raise ConfigError(
                f"rows.{method}.printed: found {line['printed']!r}, accepted is a row of table.printed"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        line["kind"] = line["kind"] or paper.rows[line["printed"]].kind
    line["label"] = line["label"] or line["printed"] or method
    return line


def _per_column(method: str, found: Any, columns: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The columns in which a row is evaluated, and what changes there."""
    own = [name for name, column in columns.items() if column["of"] == name]
    where = f"rows.{method}.columns"
    if found is None:
        return {name: {} for name in own}
    if not isinstance(found, Mapping | list):
        raise ConfigError(f"{where}: found {found!r}, accepted is a list of columns, or a section for each")
    for name in found:
        if name not in own:
            raise ConfigError(f"{where}: found {name!r}, accepted are {', '.join(own)}")
    if isinstance(found, list):
        return {name: {} for name in own if name in found}
    result = {}
    for name in own:
        changes = found.get(name) or {}
        if not isinstance(changes, Mapping):
            raise ConfigError(f"{where}.{name}: found {changes!r}, accepted is a section of keys")
        for key in changes:
            if key not in CHANGES:
                raise ConfigError(f"{where}.{name}.{key}: unknown key; accepted are {', '.join(CHANGES)}")
        result[name] = dict(changes)
    return result


def _printed(name: str | None) -> PrintedTable | None:
    if name is None:
        return None
    if name not in printed_names():
        raise ConfigError(f"table.printed: found {name!r}, accepted are {', '.join(printed_names())}")
    return printed_table(name)


def _check_name(name: str, where: str) -> None:
    """Names of rows and columns are names of folders, and parts of dotted keys."""
    if not re.fullmatch(r"[\w+=-]+", name):
        raise ConfigError(f"{where}: found {name!r}, accepted are letters, digits and _ + = -; label says more")
