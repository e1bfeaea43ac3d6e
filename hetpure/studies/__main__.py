"""The paper's figures from a run's folder: python -m hetpure.studies 6 runs/NAME [--row ROW] [key=value ..].

Writes RUN/figures/figure6.png and .pdf, the plotted numbers as .json (images as .npz), and prints the caption.
Networks, data and settings are the run's own; data.root=.., classifier.weights=.. and denoiser.path=.. say where they
have moved.
What is computed is kept: the same command only draws again.
"""

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from hetpure.errors import BAD_INPUT, INTERRUPTED, STOPPED, ConfigError, RunError

# As the other commands do, before torch is imported: threads that spin long cost a shared machine dearly.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code. One clear line for what cannot be drawn."""
    from hetpure.studies.registry import FIGURES

    listed = "\n".join(f"  {n}  {f.about}; options: {', '.join(f.option_names)}" for n, f in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m hetpure.studies",
        description=__doc__,
        epilog=f"figures:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("number", type=int, choices=FIGURES, help="the figure's number in the paper")
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument("--row", action="append", default=[], metavar="ROW", help="which row; may be given again")
    parser.add_argument("--out", type=Path, metavar="DIR", help="by default RUN_FOLDER/figures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ..")
    parser.add_argument("options", nargs="*", metavar="key=value", help="the figure's options, or where things moved")
    given = parser.parse_intermixed_args(arguments)
    try:
        files, caption = make(given.number, given.folder, given.row, given.out, given.options, given.device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was drawn", file=sys.stderr)
        return INTERRUPTED
    print(textwrap.fill(f"Figure {given.number}: {caption}", 110))
    print("\n".join(map(str, files)))
    return 0


def make(
    number: int, folder: Path, rows: Sequence[str], out: Path | None, options: Sequence[str], device: str
) -> tuple[list[Path], str]:
    """Computes a figure, or takes what is kept, and draws it.

    Args:
        number: the figure's.
        folder: the run's.
        rows: names of rows; empty for those that the figure takes by itself.
        out: folder of the files; ``figures`` in the run's by default.
        options: ``key=value`` of the figure, or of a place.
        device: where networks run.

    Returns:
        The files, the picture first; and the caption.

    Raises:
        ConfigError: for what cannot be drawn.
    """
    import matplotlib as mpl
    import torch

    from hetpure.reports.plots import style
    from hetpure.studies import numbers
    from hetpure.studies.finished import PLACES, FinishedRun
    from hetpure.studies.registry import FIGURES

    figure = FIGURES[number]
    places = [option for option in options if option.split("=", 1)[0] in PLACES]
    own = [option for option in options if option not in places]
    completed = figure.options(own)
    run = FinishedRun(folder, places, device)
    if run.config.threads:
        torch.set_num_threads(run.config.threads)
    made_from = {"figure": number, "rows": list(rows), "options": completed, "run": run.state()}
    stem = (out or folder / "figures") / name_of(number, rows, own)
    measured = numbers.kept(made_from, stem)
    if measured is None:
        measured = figure.measure(run, rows, **completed)
        files = numbers.keep(measured, made_from, stem)
    else:
        print("drawn from the numbers that are there")
        files = numbers.files_at(stem)
    with mpl.rc_context(style.SETTINGS):
        pictures = style.save(figure.draw(measured), stem)
    return [*pictures, *files], measured.caption


def name_of(number: int, rows: Sequence[str], options: Sequence[str]) -> str:
    """A file name that says what was asked for, so that one asking does not overwrite another's files."""
    asked = [*rows, *sorted(option.replace("=", "") for option in options)]
    return "-".join([f"figure{number}", *(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in asked)])


if __name__ == "__main__":
    sys.exit(main())
