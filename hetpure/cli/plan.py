"""Estimate an evaluation's time, memory and network calls: hetpure plan --config demo.yaml [key=value ...].

The same as evaluate --plan. Networks are loaded and timed on a few images; no result is computed or written.
"""

import argparse

from hetpure.cli import evaluate
from hetpure.cli.config_arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    add_config_arguments(parser)
    evaluate.add_rows_argument(parser)
    evaluate.add_plan_arguments(parser, "--")
    parser.set_defaults(plan=True)


run = evaluate.run
