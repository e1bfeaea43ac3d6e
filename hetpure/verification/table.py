"""Checks of a run's table: counted again from the records, and written again from ``results.json``."""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetpure import __version__
from hetpure.errors import ConfigError
from hetpure.reports.table import write_table_files
from hetpure.runs.files import RESULTS, RUN, read_mapping
from hetpure.runs.read import RunFolder, read_results, read_run
from hetpure.runs.results import Report, Verdict, plain_row
from hetpure.verification.lines import Problems, schema_problem

COUNTED = ("images", "failed", "standard", "robust", "certified")
"""What records say of a row; ``seconds``, a sum of decimals, is compared up to rounding."""

REPORTED = ("title", "notes", "blind", "departures")
"""What settings and records say of a run as a whole, in words."""


def check_table(folder: Path) -> Verdict:
    """``results.json`` fits its schema, and its numbers are those that the records give."""
    check = "table"
    if not (folder / RESULTS).is_file():
        return Verdict(check, None, f"there is no {RESULTS}")
    try:
        content = read_mapping(folder / RESULTS)
        if "format_version" in content and (problem := schema_problem("results", content)):  # version 1 has no schema
            return Verdict(check, False, f"{RESULTS} does not fit the schema: {problem}")
        claimed = read_results(folder)
    except ConfigError as error:
        return Verdict(check, False, str(error))
    problems, counted = Problems(), {(row.method, row.protocol): row for row in read_run(folder).report.rows}
    for row in claimed.rows:
        name = f"{row.method}, {row.protocol}"
        if (again := counted.pop((row.method, row.protocol), None)) is None:
            problems.add(f"{name}: the config has no such row")
            continue
        for key in COUNTED:
            if (says := plain_row(row)[key]) != (found := plain_row(again)[key]):
                problems.add(f"{name}: {key} {_short(says)}, the records give {_short(found)}")
        if not math.isclose(row.seconds, again.seconds, rel_tol=1e-6, abs_tol=1e-6):
            problems.add(f"{name}: {row.seconds:g} seconds, the records give {again.seconds:g}")
    for method, protocol in counted:
        problems.add(f"{method}, {protocol}: has records and is not in {RESULTS}")
    return problems.verdict(check, f"{len(claimed.rows)} rows, counted again")


def check_report(folder: Path, again: Report) -> Verdict:
    """Conditions, title, notes and honesty verdicts of ``results.json`` are those that config and records give.

    Args:
        folder: the run's; its ``results.json`` is readable.
        again: the report made again.
    """
    check, claimed, problems = "report", read_results(folder), Problems()
    made = {(row.method, row.protocol): row for row in again.rows}
    for row in claimed.rows:
        if (other := made.get((row.method, row.protocol))) is None:
            continue  # a row that cannot be built here
        _compare(problems, f"{row.method}, {row.protocol}: total", row.total, other.total)
        _compare(problems, f"{row.method}, {row.protocol}: conditions", row.conditions, other.conditions)
    for key in REPORTED:
        _compare(problems, key, getattr(claimed, key), getattr(again, key))
    passed = [
        {name: {verdict.check: verdict.passed for verdict in verdicts} for name, verdicts in report.checks.items()}
        for report in (claimed, again)
    ]
    _compare(problems, "honesty checks", *passed)
    verdict = problems.verdict(check, "conditions, notes and honesty checks, made again")
    return _if_same_version(folder, verdict)


def check_table_files(folder: Path) -> Verdict:
    """The tables beside ``results.json`` are made from it."""
    run, check, problems, same = read_run(folder), "table files", Problems(), []
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        for write in _writers(run):
            write(temporary)
        for file in sorted(temporary.iterdir()):
            if (folder / file.name).is_file():
                same.append(file.name)
                if (folder / file.name).read_bytes() != file.read_bytes():
                    problems.add(f"{file.name} differs from what {RESULTS} and the records give")
    if not same:
        return Verdict(check, True, "there are none")
    return _if_same_version(folder, problems.verdict(check, f"{', '.join(same)}: written again, the same"))


def written_by(folder: Path) -> str | None:
    """The version of the program that wrote a folder; None where it does not say."""
    return str(read_mapping(folder / RUN).get("hetpure")) if (folder / RUN).is_file() else None


def _writers(run: RunFolder) -> list[Callable[[Path], Any]]:
    writers: list[Callable[[Path], Any]] = [lambda folder: write_table_files(run.report, folder)]
    if run.config["table"].get("lines"):
        from hetpure.reports.tables.paper_table import build_table, write_table

        writers.append(lambda folder: write_table(build_table(run.config, run.report), folder))
    return writers


def _if_same_version(folder: Path, verdict: Verdict) -> Verdict:
    """No verdict where words differ because another version of the program wrote them."""
    writer = written_by(folder)
    if verdict.passed or writer == __version__:
        return verdict
    return Verdict(verdict.check, None, f"written by hetpure {writer}, this is {__version__}; {verdict.details}")


def _compare(problems: Problems, name: str, claimed: Any, again: Any) -> None:
    if _plain(claimed) != _plain(again):
        problems.add(f"{name}: {_short(claimed)}, made again it is {_short(again)}")


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True, default=vars)  # conditions are a dataclass


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}.."
