"""Everything that is shown of a run, made from its folder alone and without torch."""

from typing import TYPE_CHECKING

from hetpure.lazy import lazy_names

if TYPE_CHECKING:
    from hetpure.reports.write import write_reports

__all__ = ["write_reports"]

__getattr__, __dir__ = lazy_names(__name__, __file__)
