"""Everything that is shown of a run, made from its folder alone; nothing here needs torch."""

from hetpure.reports.write import write_reports

__all__ = ["write_reports"]
