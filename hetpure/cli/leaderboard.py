"""Write a static leaderboard site from run folders: hetpure leaderboard RUN_FOLDER .. --output SITE.

One table for each data set and threat model, from the runs' records; each run's page, and its card. A card is a YAML
file, card.yaml in the run folder (or RobustBench's JSON, card.json). Verifications (hetpure verify) are taken from the
run folders, or from a folder of your own, --verifications.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="output folder of an evaluation")
    parser.add_argument("--output", type=Path, required=True, metavar="SITE", help="folder of the site")
    parser.add_argument(
        "--verifications", type=Path, metavar="DIR", help="folder that is searched for verification.json files"
    )


def run(options: argparse.Namespace) -> None:
    """Writes the site."""
    from hetpure.reports.leaderboard.site import leaderboard

    print(leaderboard(options.folders, options.output, options.verifications))
