"""Evaluates purifiers under adaptive attacks: ``python evaluate.py --config demo.yaml [key=value ...]``."""

import sys

from hetpure.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("evaluate"))
