"""Everything that is shown of a run, made from its folder alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetpure.reports.page.render import FILE, page
from hetpure.reports.table import print_report, write_table_files
from hetpure.runs.files import one_line, write_whole
from hetpure.runs.read import RunFolder, read_run


def write_reports(folder: Path) -> RunFolder:
    """Prints a run's table, and writes its tables, the plot of its grid and its page into its folder.

    A file that cannot be written is reported on standard error, and the others are written.

    Raises:
        ConfigError: if the folder is not an evaluation's.
    """
    run, table = read_run(folder), None
    _attempt(folder / "results.md", lambda: write_table_files(run.report, folder))
    if run.config["table"].get("lines"):
        from hetpure.reports.tables.forms import print_table
        from hetpure.reports.tables.paper_table import build_table, text_table, write_table

        table = build_table(run.config, run.report)
        _attempt(folder / "table.md", lambda: write_table(table, folder))
        print_table(text_table(table))
        if run.report.checks:
            print(f"honesty checks of each evaluation: {folder / 'results.md'}")
    else:
        print_report(run.report)
    if run.config["grid"]:
        from hetpure.reports.plots.sweep import FIGURE, draw_grid

        if _attempt(folder / FIGURE, lambda: draw_grid(run)):
            print(f"accuracy over {', '.join(run.config['grid'])}: {folder / FIGURE}")
    _attempt(folder / FILE, lambda: write_whole(folder / FILE, page(run, table)))
    return run


def _attempt(file: Path, write: Callable[[], Any]) -> Any:
    """Returns what ``write`` returns; None, with a line on standard error, if it fails."""
    try:
        return write()
    except Exception as error:
        reason = one_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {one_line(error)}"[:200]
        print(f"{file}: cannot be written: {reason}; going on without it", file=sys.stderr)
