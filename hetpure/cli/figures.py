"""Draw a figure of the paper from a run's folder: hetpure figures joint runs/NAME [--row ROW] [key=value ..].

Writes RUN/figures/NAME.png and .pdf, the plotted numbers as .json (images as .npz), and prints the caption.
Networks, data and settings are the run's own; data.root=.., classifier.weights=.. and denoiser.path=.. say where they
have moved. What is computed is kept: the same command draws again without computing.
"""

import argparse
import textwrap
from pathlib import Path

from hetpure.errors import RunError
from hetpure.studies.registry import FIGURES, figure_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    width = max(map(len, FIGURES)) + 2
    lines = [
        f"  {name:{width}}{figure.number}  {figure.about}; options: {', '.join(figure.options)}"
        for name, figure in FIGURES.items()
    ]
    parser.epilog = "figures (with the paper's number, which is accepted too):\n" + "\n".join(lines)
    parser.add_argument("figure", metavar="FIGURE", help="one of those below")
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument("--row", action="append", default=[], metavar="ROW", help="which row; may be given again")
    parser.add_argument("--out", type=Path, metavar="DIR", help="by default RUN_FOLDER/figures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ..")
    parser.add_argument("options", nargs="*", metavar="key=value", help="the figure's options, or where files moved")


def run(options: argparse.Namespace) -> None:
    """Draws the figure."""
    figure = figure_named(options.figure)
    from hetpure.studies.make import make_figure

    try:
        files, caption = make_figure(figure, options.folder, options.row, options.out, options.options, options.device)
    except OSError as error:
        raise RunError(str(error)) from None
    print(textwrap.fill(f"Figure {figure.number} of the paper, {figure.name}: {caption}", 110))
    print("\n".join(map(str, files)))
