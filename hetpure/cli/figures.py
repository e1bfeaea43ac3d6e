"""Draw a figure from a run folder: hetpure figures joint runs/NAME [--row ROW] [key=value ..].

Writes RUN_FOLDER/figures/NAME.png and .pdf, the plotted numbers as .json (images as .npz), and prints the caption.
Networks, data and settings are the run's own; data.root=.., classifier.weights=.. and denoiser.path=.. say where they
have moved. The numbers are saved: the same command draws again without computing.
"""

import argparse
import textwrap
from pathlib import Path

from hetpure.errors import RunError
from hetpure.studies.registry import FIGURES, NUMBERS, describe_figure, find_figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    width = max(map(len, FIGURES)) + 2
    parser.epilog = "figures, with their numbers in the paper, which are accepted too:"
    for name, target in FIGURES.items():
        about, options = describe_figure(target)
        parser.epilog += f"\n  {name:{width}}{NUMBERS.get(name, '')}  {about}\n"
        parser.epilog += f"  {'':{width + 3}}options: {', '.join(options)}"
    parser.add_argument("figure", metavar="FIGURE", help="one of those below, or module:Class of your own")
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument("--row", action="append", default=[], metavar="ROW", help="which row; may be given again")
    parser.add_argument("--out", type=Path, metavar="DIR", help="by default RUN_FOLDER/figures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ..")
    about = "the figure's options, or where data and weights have moved"
    parser.add_argument("options", nargs="*", metavar="key=value", help=about)


def run(options: argparse.Namespace) -> None:
    """Draws the figure."""
    name, target = find_figure(options.figure)
    from hetpure.studies.figure import make_figure

    where = (options.out, options.device)
    try:
        files, caption = make_figure(name, target, options.folder, options.row, options.options, *where)
    except OSError as error:
        raise RunError(str(error)) from None
    number = f"Figure {NUMBERS[name]} of the paper, " if name in NUMBERS else ""
    print(textwrap.fill(f"{number}{name}: {caption}", 110))
    print("\n".join(map(str, files)))
