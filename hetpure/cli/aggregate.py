"""Mean and standard deviation over runs that differ only in their seed: hetpure aggregate runs/seed0 runs/seed1 .."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="output folder of an evaluation")


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    from hetpure.reports.aggregate import aggregate, markdown

    print(markdown(aggregate(options.folders), len(options.folders)), end="")
