"""``python -m hetpure.evaluation.sweeps``: see ``sweep``."""

import sys

from hetpure.evaluation.sweeps.sweep import main

if __name__ == "__main__":
    sys.exit(main())
