"""Where a run's table of methods by columns goes: its folder, the terminal, the dashboard."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from hetpure.reports.dashboard import Dashboard
from hetpure.reports.tables.forms import numbers, print_table, write_table
from hetpure.reports.tables.paper_table import build_table
from hetpure.runs.results import Report


def report_table(
    config: DictConfig, report: Report, absent: Mapping[str, Sequence[str]], dashboard: Dashboard | None = None
) -> None:
    """Shows the table everywhere.

    Args:
        config: complete, with ``table.lines``.
        report: of the rows that were evaluated.
        absent: what the others lack, by row.
        dashboard: where it is logged, if anywhere.
    """
    table = build_table(config, report, absent)
    output = Path(config.output)
    try:
        write_table(table, output)
    except OSError as error:
        print(f"{output}: the table cannot be written: {error.strerror}", file=sys.stderr)
    print_table(table)
    if report.checks:
        print(f"honesty checks of each evaluation: {output / 'results.md'}")
    if dashboard is not None:
        dashboard.table(*numbers(table))
