"""``python -m hetpure.reports.plots``: see ``sweep``."""

import sys

from hetpure.reports.plots.sweep import main

if __name__ == "__main__":
    sys.exit(main())
