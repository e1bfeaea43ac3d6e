"""The page itself, from a run folder."""

import base64
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hetpure.reports.page.charts import budget_charts, correct_charts, loss_charts, submissions_charts
from hetpure.reports.page.embed import LIMIT, Album
from hetpure.reports.page.samples import browser_data
from hetpure.reports.table import cells, split_common
from hetpure.reports.tables.paper_table import PaperTable
from hetpure.runs.files import CONFIG
from hetpure.runs.names import VARIANTS
from hetpure.runs.read import RunFolder
from hetpure.runs.results import Accuracy, TableRow, accuracy

FILE = "report.html"


def page(run: RunFolder, table: PaperTable | None = None, limit: int = LIMIT) -> str:
    """The page's HTML: one file that loads nothing else.

    The template escapes all values, and the script's data are JSON without a ``<``. The policy in the page's head
    forbids any connection and any script but its own.
    """
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = browser_data(run, Album(limit))
    return _template().render(
        run=run,
        name=run.path.resolve().name,
        style=Markup(_part("page.css")),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        data=Markup(json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")),
        **_table(run.report.rows),
        alarms=_alarms(run),
        checks=_checks(run),
        charts=[
            *budget_charts(run.methods),
            *loss_charts(run.methods),
            *correct_charts(run.methods),
            *submissions_charts(run.methods),
        ],
        notes=[*run.report.notes, *run.problems, *data["notes"]],
        commands=_commands(run.path),
        table=table,
    )


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html"))


def _part(name: str) -> str:
    return (files("hetpure.reports.page") / name).read_text(encoding="utf-8")


def _table(rows: Sequence[TableRow]) -> dict[str, Any]:
    """The columns that are shown, the lines by group (METHOD of METHOD/COLUMN), and what all lines have in common."""
    columns, common = split_common(rows)
    several = len({row.protocol for row in rows}) > 1
    lines = []
    for row, (method, *texts) in zip(rows, cells(rows, columns), strict=True):
        group, _, column = row.method.rpartition("/")
        label = f"{column} · {row.protocol}" if several else column
        marks = _measured(standard=row.standard, robust=row.robust)
        lines.append({"group": group, "cells": [column if method else "", *texts], "label": label, "marks": marks})
    groups = [(name, list(members)) for name, members in itertools.groupby(lines, key=itemgetter("group"))]
    return {"columns": columns, "groups": groups, "common": common}


def _measured(**accuracies: Accuracy) -> dict[str, Accuracy]:
    return {kind: accuracy for kind, accuracy in accuracies.items() if accuracy.count}


def _alarms(run: RunFolder) -> list[tuple[str, str]]:
    """What must be read before any number, as (weight, text)."""
    alarms = [("danger", run.report.warning)] if run.report.warning else []
    first = {row.method: row for row in reversed(run.report.rows)}
    rows = [first[method.name] for method in run.methods]
    failed = "; ".join(f"{row.method}: {row.failed} of {row.total}" for row in rows if row.failed)
    counts = {row.method: (row.images + row.failed, row.total) for row in rows}
    unfinished = "; ".join(f"{method}: {done} of {total}" for method, (done, total) in counts.items() if done < total)
    cautions = [
        (failed, f"Some samples failed and count in no accuracy ({failed} images). The notes say why."),
        (not rows, "Nothing was measured: no row could be evaluated."),
        (unfinished, f"This run is not finished ({unfinished} images). Run the same command again to continue it."),
    ]
    return [*alarms, *(("caution", text) for applies, text in cautions if applies)]


def _checks(run: RunFolder) -> list[dict[str, Any]]:
    """Each method's verdicts, and its accuracy under the other attacks of the checks."""
    methods = {method.name: method for method in run.methods}
    checks = []
    for name, verdicts in run.report.checks.items():
        rows, method = [], methods.get(name)
        if method is not None and method.variants:
            checked = {record.index for records in method.variants.values() for record in records}
            attacks = {"the attack itself": [record for record in method.one_shot if record.index in checked]}
            for key in dict.fromkeys([*VARIANTS, *method.variants]):
                attacks[VARIANTS.get(key, key)] = list(method.variants.get(key, []))
            marks = {label: _measured(robust=accuracy(records, "adversarial")) for label, records in attacks.items()}
            rows = [{"label": label, "marks": marks[label]} for label in marks if marks[label]]
        failed = sum(verdict.passed is False for verdict in verdicts)
        checks.append({"name": name, "verdicts": verdicts, "failed": failed, "rows": rows})
    return checks


def _commands(folder: Path) -> list[tuple[str, str]]:
    """What a reader may want to do, and the command for it."""
    resolved, current = folder.resolve(), Path.cwd()
    path = os.fspath(resolved.relative_to(current) if resolved.is_relative_to(current) else resolved)
    evaluate = f"hetpure evaluate --config {shlex.quote(f'{path}/{CONFIG}')}"
    return [
        ("Repeat the whole run in a new folder", f"{evaluate} {shlex.quote(f'output={path}-again')}"),
        ("Continue this run where it stopped", f"{evaluate} {shlex.quote(f'output={path}')}"),
        ("Make this page again", f"hetpure report {shlex.quote(path)}"),
    ]
