"""``report.html``: a run as one page to look at, without a network."""

import sys
from pathlib import Path

from hetpure.reports.page.render import write_page


def try_to_write_page(output: Path) -> None:
    """Writes the page; whatever goes wrong is reported, and never the end of an evaluation."""
    file = output / "report.html"
    try:
        write_page(output)
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"{file}: cannot be written: {reason}; going on without it", file=sys.stderr)
