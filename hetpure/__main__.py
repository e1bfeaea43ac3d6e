"""``python -m hetpure`` is the ``hetpure`` command."""

import sys

from hetpure.cli import main

if __name__ == "__main__":
    sys.exit(main())
