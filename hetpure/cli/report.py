"""Write the tables and pages of finished or interrupted runs again, from their folders: hetpure report RUN_FOLDER ..

With --over, plot accuracy over one or two keys instead, from one run's rows or from many runs:

    hetpure report --over purifier.tau --output tau.png runs/sweeps/tau/*
"""

import argparse
from pathlib import Path

from hetpure.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="output folder of an evaluation")
    parser.add_argument("--over", metavar="KEY[,KEY]", help="plot accuracy over these keys, such as purifier.tau")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file of the plot: .png or .pdf")


def run(options: argparse.Namespace) -> None:
    """Writes tables and pages, or a plot."""
    if (options.over is None) != (options.output is None):
        raise ConfigError("--over and --output", "must be given together")
    if options.over is None:
        from hetpure.reports import write_reports

        for folder in options.folders:
            write_reports(folder)
            print(folder / "report.html")
        return
    from hetpure.reports.plots.sweep import draw_folders
    from hetpure.runs.files import one_line

    try:
        draw_folders(options.folders, options.over.split(","), options.output)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"--output {options.output}", one_line(error)) from None
    print(options.output)
