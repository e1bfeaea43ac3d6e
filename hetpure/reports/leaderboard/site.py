"""The site: ``index.html``, which loads nothing from elsewhere, each run's page, and its card in two layouts."""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hetpure import __version__
from hetpure.errors import RunError, require
from hetpure.reports.leaderboard.cards import as_json, model_info, write_card
from hetpure.reports.leaderboard.standings import Board, Entry, Submission, boards, read_submission
from hetpure.reports.page.render import page
from hetpure.reports.tables.paper_table import build_table
from hetpure.runs.files import one_line, write_whole

EMBEDDED = 2 * 2**20
"""Bytes of pictures in each run's page."""


def leaderboard(folders: Sequence[Path], output: Path, verifications: Path | None = None) -> Path:
    """Writes the site of some run folders. A site that is there already is replaced file by file.

    Args:
        folders: the runs, each perhaps with a card.
        output: folder of the site.
        verifications: see ``read_submission``.

    Returns:
        Its ``index.html``.

    Raises:
        ConfigError: for a folder or card that cannot be used; nothing is written.
        RunError: where the site cannot be written.
    """
    require(verifications is None or verifications.is_dir(), "--verifications", str(verifications), "a folder")
    submissions = [read_submission(folder, verifications) for folder in folders]
    names = _names(submissions)
    try:
        for submission, name in zip(submissions, names, strict=True):
            run, folder = submission.run, output / "runs" / name
            folder.mkdir(parents=True, exist_ok=True)
            table = build_table(run.config, run.report) if run.config["table"].get("lines") else None
            write_whole(folder / "report.html", page(run, table, EMBEDDED))
            write_whole(folder / "card.yaml", write_card(submission.card))
            for number, entry in enumerate(submission.entries, 1):
                info = model_info(submission.card, entry)
                write_whole(folder / f"model_info-{number}.json", as_json(info))
        folder_of = dict(zip(map(id, submissions), names, strict=True))
        write_whole(output / "index.html", render(boards(submissions), folder_of))
    except OSError as error:
        raise RunError(f"--output: {output} cannot be written: {one_line(error)}") from None
    return output / "index.html"


def render(tables: Sequence[Board], names: dict[int, str]) -> str:
    """The HTML of ``index.html``; the template escapes all values, and the head forbids any other script.

    Args:
        tables: the boards.
        names: each submission's folder in ``runs/``, by the object's id.
    """
    script = _part("board.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        boards=[(_title(board), board, [_line(s, e, names[id(s)]) for s, e in board.entries]) for board in tables],
        style=Markup(_part("board.css")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        made=f"{date.today().isoformat()}, hetpure {__version__}",
    )


def _line(submission: Submission, entry: Entry, folder: str) -> dict[str, Any]:
    """What the template shows of an entry."""
    honest = {True: "passed", False: "failed", None: "not checked"}[entry.honest]
    failed = [verdict.check for verdict in entry.honesty if verdict.passed is False]
    return {"submission": submission, "entry": entry, "folder": folder, "honest": honest, "failed": failed}


def _title(board: Board) -> str:
    if board.threat is None:
        return f"{board.dataset}, no attack"
    norm, eps = board.threat
    levels = eps * 255
    radius = f"{levels:.0f}/255" if norm == "Linf" and abs(levels - round(levels)) < 1e-6 else f"{eps:g}"
    return f"{board.dataset}, {norm} {radius}"


def _names(submissions: Sequence[Submission]) -> list[str]:
    """A folder name for each run: its own, as far as it is plain, and numbered where it occurs twice."""
    names: list[str] = []
    for submission in submissions:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", submission.run.path.resolve().name).strip("-") or "run"
        name, number = plain, 2
        while name in names:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("board.html"))


def _part(name: str) -> str:
    return (files("hetpure.reports.leaderboard") / name).read_text(encoding="utf-8")
