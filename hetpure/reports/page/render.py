"""The page itself, from a run's folder."""

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hetpure.reports.page.charts import draws_charts, loss_charts, submissions_charts
from hetpure.reports.page.embed import LIMIT, Album
from hetpure.reports.page.samples import browser_data
from hetpure.reports.table import COLUMNS, cells
from hetpure.reports.tables.paper_table import PaperTable
from hetpure.runs.files import CONFIG
from hetpure.runs.read import RunFolder
from hetpure.runs.results import Accuracy, TableRow, accuracy

FILE = "report.html"

VARIANTS = {
    "more_steps": "more iterations",
    "more_eot": "more EOT",
    "larger_eps": "larger eps",
    "huge_eps": "huge eps",
    "random_noise": "random noise",
    "transfer": "from the undefended classifier",
}


def page(run: RunFolder, table: PaperTable | None = None, limit: int = LIMIT) -> str:
    """The page's HTML: one file that asks for nothing else.

    All values go through the template's escaping, and the data of the script are JSON without a ``<``. The policy in
    the page's head forbids any connection and any script but its own.
    """
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = browser_data(run, Album(limit))
    lines = run.report.rows
    curves = [
        ("The attacker's loss", "mean over images; the band holds the middle 80 % of them", loss_charts(run.methods)),
        (
            "Right under attack",
            "share of the attacker's own draws (EOT) that were still classified right, mean over images; the "
            "defender's own draws decide the robust accuracy",
            draws_charts(run.methods),
        ),
        (
            "Submissions",
            "robust accuracy if the same image may be submitted so many times, with 95 % intervals",
            submissions_charts(run.methods),
        ),
    ]
    return _template().render(
        run=run,
        name=run.path.resolve().name,
        style=Markup(_part("page.css")),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        data=Markup(json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")),
        **_table(lines),
        groups=_whiskers(lines),
        alarms=_alarms(run),
        checks=_checks(run),
        curves=[curve for curve in curves if curve[2]],
        said=[*run.report.notes, *run.problems, *data["said"]],
        commands=_commands(run),
        table=table,
    )


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html"))


def _part(name: str) -> str:
    return (files("hetpure.reports.page") / name).read_text(encoding="utf-8")


def _table(rows: Sequence[TableRow]) -> dict[str, Any]:
    """Columns that are shown, lines with their group, and what all lines have in common."""
    values = {column.heading: {str(column.value(row)) for row in rows} for column in COLUMNS if column.common}
    common = {heading: found.pop() for heading, found in values.items() if len(found) == 1}
    shown = [i for i, column in enumerate(COLUMNS) if column.heading not in common]
    lines, before = [], None
    for row, texts in zip(rows, cells(rows), strict=True):
        group, _, texts[0] = row.method.rpartition("/") if texts[0] else (before, "", "")
        lines.append({"group": group if group != before else "", "cells": [texts[i] for i in shown]})
        before = group
    return {"columns": [COLUMNS[i] for i in shown], "lines": lines, "common": common}


def _whiskers(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Accuracies as dots with their intervals, the same order as the table's."""
    several = len({row.protocol for row in rows}) > 1
    groups: list[dict[str, Any]] = []
    for row in rows:
        group, _, column = row.method.rpartition("/")
        if not groups or groups[-1]["name"] != group:
            groups.append({"name": group, "rows": []})
        marks = [_mark(kind, found) for kind, found in (("standard", row.standard), ("robust", row.robust))]
        label = f"{column} · {row.protocol}" if several else column
        groups[-1]["rows"].append({"label": label, "marks": [mark for mark in marks if mark]})
    return groups


def _mark(kind: str, found: Accuracy) -> dict[str, Any] | None:
    if not found.count:
        return None
    low, high = 100 * found.low, 100 * found.high
    return {
        "kind": kind,
        "at": f"{100 * found.value:.2f}",
        "from": f"{low:.2f}",
        "width": f"{high - low:.2f}",
        "said": f"{kind} accuracy {found} % of {found.count} images",
        "text": f"{100 * found.value:.1f}",
    }


def _alarms(run: RunFolder) -> list[tuple[str, str]]:
    """What a reader must know before the figures: (weight, text)."""
    found = [("danger", run.report.warning)] if run.report.warning else []
    first = {}
    for row in run.report.rows:
        first.setdefault(row.method, row)
    failed = [f"{name}: {row.failed} of {row.total}" for name, row in first.items() if row.failed]
    if failed:
        said = "; ".join(failed)
        found.append(("caution", f"Some samples failed, and count in no accuracy ({said} images). The notes say why."))
    unfinished = [row for row in first.values() if row.images + row.failed < row.total]
    if unfinished or not first:
        said = "; ".join(f"{row.method}: {row.images + row.failed} of {row.total}" for row in unfinished)
        found.append(("caution", f"This run is not finished ({said} images). The same command goes on from here."))
    return found


def _checks(run: RunFolder) -> list[dict[str, Any]]:
    """Each method's verdicts, and its accuracy under the other attacks."""
    by_name = {method.name: method for method in run.methods}
    found = []
    for name, verdicts in run.report.checks.items():
        rows = []
        method = by_name.get(name)
        if method is not None and method.variants:
            indices = {record.index for records in method.variants.values() for record in records}
            own = [record for record in method.one_shot if record.index in indices]
            order = [*(k for k in VARIANTS if k in method.variants), *(k for k in method.variants if k not in VARIANTS)]
            sets = {"the attack itself": own, **{VARIANTS.get(k, k): method.variants[k] for k in order}}
            for label, records in sets.items():
                mark = _mark("robust", accuracy(records, "adversarial"))
                if mark:
                    rows.append({"label": label, "marks": [mark]})
        failed = sum(verdict.passed is False for verdict in verdicts)
        found.append({"name": name, "verdicts": verdicts, "failed": failed, "rows": rows})
    return found


def _commands(run: RunFolder) -> list[tuple[str, str]]:
    """Commands that a reader can type, with what each does."""
    folder = _path(run.path)
    config = shlex.quote(f"{folder}/{CONFIG}")
    return [
        (
            "Repeat the whole run in a new folder",
            f"python evaluate.py --config {config} {shlex.quote(f'output={folder}-again')}",
        ),
        (
            "Go on where this run stopped",
            f"python evaluate.py --config {config} {shlex.quote(f'output={folder}')}",
        ),
        ("Make this page again from the folder", f"hetpure report {shlex.quote(folder)}"),
    ]


def _path(folder: Path) -> str:
    """The folder, relative to where the command runs if it lies below."""
    resolved = folder.resolve()
    here = Path.cwd()
    return os.fspath(resolved.relative_to(here) if resolved.is_relative_to(here) else resolved)
