"""Everything that is shown of a run, made from its folder alone and without torch."""

from hetpure.reports.write import write_reports

__all__ = ["write_reports"]
