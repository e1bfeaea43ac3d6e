"""Tables of methods by columns: each row of the config is a method, and is evaluated once for each column.

What is evaluated are ordinary rows, named ``METHOD/COLUMN``. ``table.lines`` of the completed config says how they are
laid out. It is made here; a config that has it is laid out already.
"""

import copy
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from hetpure.config import merge
from hetpure.config.schema import SECTION, structure, to_dict, unknown_key
from hetpure.errors import ConfigError, require
from hetpure.evaluation.expand_grid import SECTIONS
from hetpure.runs.names import protocol_names

if TYPE_CHECKING:
    from hetpure.reports.tables.printed import PrintedTable

Side = Literal["standard", "robust", "average", "calls"]
UNATTACKED = ("standard", "calls")
"""Sides that say nothing of an attack: their columns need no evaluation of their own."""


@dataclass(frozen=True)
class ColumnConfig:
    """A column: what it changes in every row, and what it shows.

    ``side``: standard or robust accuracy, their mean, or the denoiser's calls in a prediction. ``of`` names another
    column whose evaluation is shown instead of one of its own; ``standard`` and ``calls`` show the first that a row
    has. ``worst`` names columns with an evaluation of their own: for each image, the strongest of their adversarial
    images is judged. ``protocol``: by which to judge.
    """

    title: str | None = None
    side: Side = "robust"
    of: str | None = None
    worst: list[str] = field(default_factory=list)
    protocol: str = "one-shot"
    classifier: dict[str, Any] = field(default_factory=dict)
    denoiser: dict[str, Any] = field(default_factory=dict)
    purifier: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] = field(default_factory=dict)
    ensemble: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class TableConfig:
    """A table: the printed one that it is compared with (``table1`` to ``table8``), a title, columns in order."""

    printed: str | None = None
    title: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One row that is evaluated: a method (a row of the file), in a column of the table where it has any.

    ``changed`` are the sections that differ from the whole config's. ``worst`` are the rows from whose images this one
    takes the strongest; all else is as in the first of them.
    """

    base: Mapping[str, Any]
    change: Mapping[str, Any]
    changed: Sequence[str]
    method: str
    column: str | None = None
    worst: Sequence[str] = ()

    def blame(self, error: ConfigError) -> ConfigError:
        """The error as one of the row, or of the column, where it is about a section that either changes."""
        section = error.key.split(".")[0]
        # An attack process is the row's purifier with changes.
        if section in self.change or ("purifier" in self.change and error.key.startswith("attack.process.")):
            return error.within(f"rows.{self.method}")
        if self.column is None or section not in self.changed:
            return error
        error = error.within(f"table.columns.{self.column}")
        error.problem = f"{error.problem} (row {self.method})" if error.problem else f"in row {self.method}"
        return error


def expand(
    base: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], table: TableConfig
) -> tuple[dict[str, Cell], TableConfig]:
    """The rows that are evaluated, by name, from the whole config's raw sections; and the completed ``table``."""
    if table.lines or not table.columns:
        if not table.lines and (table.printed or table.title):
            raise ConfigError("table.columns", "is empty, and a table needs columns")
        lines = {name: _section(LineConfig, line, f"table.lines.{name}") for name, line in table.lines.items()}
        for line in lines.values():
            del line["columns"]  # laid out already
        cells = {name: Cell(base, change, tuple(change), name) for name, change in rows.items()}
        return cells, replace(table, columns=copy.deepcopy(table.columns), lines=lines)
    columns, printed = _columns(table.columns), _printed(table.printed)
    cells, lines = {}, {}
    for method, row in rows.items():
        line = lines[method] = _line(method, row, printed)
        per_column = _per_column(method, line.pop("columns"), columns)
        if line["reason"] is not None:
            continue
        change = {key: value for key, value in row.items() if key not in LineConfig.__dataclass_fields__}
        for column, more in per_column.items():
            of_column = {key: columns[column][key] for key in SECTIONS if columns[column][key]}
            own = merge(change, more)
            changed = tuple({**of_column, **own})
            cells[f"{method}/{column}"] = Cell(merge(base, of_column), own, changed, method, column)
        shown_in = {column: column for column in per_column}
        for column, settings in columns.items():
            if found := [f"{method}/{each}" for each in settings["worst"] if each in per_column]:
                shown_in[column] = column if len(found) > 1 else found[0].partition("/")[2]  # of one, that one
            if len(found) > 1:
                cells[f"{method}/{column}"] = replace(cells[found[0]], column=column, worst=tuple(found))
        line["cells"] = {
            shown: f"{method}/{shown_in[source]}"
            for shown in columns
            if (source := columns[shown]["of"] or next(iter(per_column), None)) in shown_in
        }
    kept = ("title", "side", "of", "protocol")
    shown = {name: {key: column[key] for key in kept} for name, column in columns.items()}
    return cells, replace(table, columns=shown, lines=lines)


def check_protocols(table: TableConfig, resubmissions: int, votes: int) -> None:
    """Refuses a column whose protocol rows are not judged by."""
    known = protocol_names(resubmissions, votes)
    for name, column in table.columns.items():
        if (protocol := column.get("protocol", known[0])) not in known:
            accepted = f"{', '.join(known)}; protocols.resubmissions and protocols.votes add others"
            raise ConfigError(f"table.columns.{name}.protocol", found=protocol, accepted=accepted)


def check_threats(table: TableConfig, norms: Mapping[str, str | None]) -> None:
    """Refuses a column of robust accuracies under several threat models; ``norms`` are the evaluated rows' norms."""
    for name, column in table.columns.items():
        if column.get("side") not in UNATTACKED:
            cells = [line["cells"].get(name) for line in table.lines.values()]
            if len(found := {norm for cell in cells if (norm := norms.get(cell or "")) is not None}) > 1:
                accepted = "attacks of one norm in a column; others in a column of their own"
                raise ConfigError(
                    f"table.columns.{name}", f"has attacks of {', '.join(sorted(found))}", accepted=accepted
                )


def select_rows(rows: Collection[str], table: TableConfig, names: Collection[str]) -> list[str]:
    """The rows that some names mean: a row's own, or a table's method with all its columns. Refuses other names."""
    selected = []
    for name in names:
        matches = [row for row in rows if row == name or (table.lines and row.startswith(f"{name}/"))]
        if not matches:
            methods = dict.fromkeys(row.partition("/")[0] if table.lines else row for row in rows)
            close = difflib.get_close_matches(name, [*methods, *rows], n=1) or methods
            raise ConfigError(f"--rows {name}", f"is no row of this config; did you mean {', '.join(close)}?")
        selected += matches
    return selected


def _section(schema: type, raw: Any, where: str) -> dict[str, Any]:
    require(isinstance(raw, Mapping), where, raw, SECTION)
    return to_dict(structure(schema, raw, where))


def _columns(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    columns = {}
    for name, change in raw.items():
        where = f"table.columns.{name}"
        _check_name(name, where)
        columns[name] = _section(ColumnConfig, {} if change is None else change, where)
    own = [name for name, column in columns.items() if column["of"] is None and column["side"] not in UNATTACKED]
    if not own:
        raise ConfigError("table.columns", "has no column that is evaluated", accepted="at least one of side robust")
    for name, column in columns.items():
        where = f"table.columns.{name}"
        accepted = f"a column with an evaluation of its own: {', '.join(own)}"
        require(column["of"] in (None, *own), f"{where}.of", column["of"], accepted)
        if worst := column["worst"]:
            _check_worst(column, [each for each in own if not columns[each]["worst"]], where)
        if (worst or name not in own) and (changed := [key for key in SECTIONS if column[key]]):
            raise ConfigError(f"{where}.{changed[0]}", "changes an evaluation, but this column shows another column's")
        if name in own:
            column["of"] = name
    return columns


def _check_worst(column: Mapping[str, Any], attacked: Collection[str], where: str) -> None:
    """Refuses a ``worst`` that is not of two or more of the columns that are attacked."""
    worst = column["worst"]
    accepted = f"two or more different ones of {', '.join(attacked)}"
    require(len({*worst}) == len(worst) >= 2 and {*worst} <= {*attacked}, f"{where}.worst", worst, accepted)
    require(column["of"] is None, f"{where}.of", column["of"], "null together with worst")
    fits = column["side"] not in UNATTACKED
    require(fits, f"{where}.side", column["side"], "robust or average together with worst")


def _line(method: str, row: Mapping[str, Any], printed: "PrintedTable | None") -> dict[str, Any]:
    where = f"rows.{method}"
    _check_name(method, where)
    if made := [key for key in ("cells", "missing") if key in row]:
        raise ConfigError(f"{where}.{made[0]}", "is made by the table itself", accepted="columns")
    line = _section(LineConfig, {key: row[key] for key in row if key in LineConfig.__dataclass_fields__}, where)
    known = printed.rows if printed is not None else {}
    if line["printed"] is None and method in known:
        line["printed"] = method
    if (name := line["printed"]) is not None:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.3) or list(known)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where}.printed", found=name, accepted=f"a row of table.printed{hint}")
        line["kind"] = line["kind"] or known[name].kind
    line["label"] = line["label"] or line["printed"] or method
    return line


def _per_column(method: str, chosen: Any, columns: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The columns in which a row is evaluated, and what changes there."""
    own = [name for name, column in columns.items() if column["of"] == name and not column["worst"]]
    where = f"rows.{method}.columns"
    if chosen is None:
        return {name: {} for name in own}
    require(isinstance(chosen, Mapping | list), where, chosen, "a list of columns, or a section for each")
    for name in chosen:
        require(name in own, where, name, ", ".join(own))
    if isinstance(chosen, list):
        return {name: {} for name in own if name in chosen}
    changes = {name: chosen.get(name) or {} for name in own}
    for name, change in changes.items():
        require(isinstance(change, Mapping), f"{where}.{name}", change, SECTION)
        if unknown := [key for key in change if key not in SECTIONS]:
            raise unknown_key(unknown[0], SECTIONS, f"{where}.{name}")
    return changes


def _printed(name: str | None) -> "PrintedTable | None":
    if name is None:
        return None
    from hetpure.reports.tables.printed import printed_names, printed_table

    require(name in printed_names(), "table.printed", name, ", ".join(printed_names()))
    return printed_table(name)


def _check_name(name: str, where: str) -> None:
    """Names of rows and columns are names of folders, and parts of dotted keys."""
    accepted = "letters, digits and _ + = -; label may hold anything"
    require(re.fullmatch(r"[\w+=-]+", name) is not None, where, name, accepted)
