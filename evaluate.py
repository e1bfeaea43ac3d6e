"""Evaluate purifiers under adaptive attacks: python evaluate.py --config demo.yaml [key=value ...].

Clean and adversarial accuracy of every row of the config, with pictures, in the folder `output` (runs/NAME by default).
The same command again goes on where it stopped.
--plan says what it will cost and runs nothing. A bare config name is looked up in configs/; --print-config shows every
key with its value.
"""

import sys

from hetpure.cli import main
from hetpure.evaluation.config import complete
from hetpure.evaluation.run import run
from hetpure.planning.plan import plan

if __name__ == "__main__":
    sys.exit(main(complete, run, __doc__ or "", plan=plan))
