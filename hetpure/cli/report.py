"""Write the page of finished or interrupted runs again: hetpure report runs/demo.

With --over, plot accuracy over one or two keys instead, from one run's rows or from many runs:

    hetpure report --over purifier.tau --output tau.png runs/sweeps/tau/*
"""

import argparse
from pathlib import Path

from hetpure.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument("--over", metavar="KEY[,KEY]", help="plot accuracy over these keys, such as purifier.tau")
    parser.add_argument("--output", type=Path, metavar="FILE", help="of the plot: .png or .pdf")


def run(options: argparse.Namespace) -> None:
    """Writes pages, or a plot."""
    if (options.over is None) != (options.output is None):
        raise ConfigError("--over KEY and --output FILE go together")
    if options.over is not None:
        from hetpure.reports.plots.sweep import draw_folders

        try:
            draw_folders(options.folders, options.over.split(","), options.output)
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(f"--output {options.output}: {' '.join(str(error).split())}") from None
        print(options.output)
        return
    from hetpure.reports.page.render import write_page

    for folder in options.folders:
        try:
            print(write_page(folder))
        except (ConfigError, OSError) as error:
            raise ConfigError(" ".join(str(error).split())) from None
