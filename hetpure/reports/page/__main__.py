"""Makes the page of finished or interrupted runs again: python -m hetpure.reports.page runs/demo."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hetpure.errors import ConfigError
from hetpure.reports.page.render import write_page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 2 and one line for a folder that is no run's or cannot be written."""
    parser = argparse.ArgumentParser(description="Writes report.html into the folder of a run, from what lies there.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    for folder in parser.parse_args(arguments).folders:
        try:
            print(write_page(folder))
        except (ConfigError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
