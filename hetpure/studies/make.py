"""Makes a figure of a run's folder: its numbers, computed once and kept, and its files."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch

from hetpure.evaluation.content import PATHS
from hetpure.reports.plots import style
from hetpure.studies import numbers
from hetpure.studies.finished import FinishedRun
from hetpure.studies.registry import Figure


def make_figure(
    figure: Figure, folder: Path, rows: Sequence[str], out: Path | None, options: Sequence[str], device: str
) -> tuple[list[Path], str]:
    """Computes a figure, or takes the numbers that are kept, and draws it.

    Args:
        figure: which.
        folder: the run's.
        rows: names of rows; empty for the figure's own choice.
        out: folder of the files; ``figures`` in the run's by default.
        options: ``key=value`` of the figure, or of a file that moved.
        device: where networks run.

    Returns:
        The files, the picture first; and the caption.

    Raises:
        ConfigError: for what cannot be drawn.
    """
    places = [option for option in options if option.split("=", 1)[0] in PATHS]
    own = [option for option in options if option not in places]
    completed = figure.complete(own)
    run = FinishedRun(folder, places, device)
    if run.config.threads:
        torch.set_num_threads(run.config.threads)
    made_from = {"figure": figure.name, "rows": list(rows), "options": completed, "run": run.state()}
    stem = (out or folder / "figures") / file_stem(figure.name, rows, own)
    measured = numbers.kept(made_from, stem)
    if measured is None:
        measured = figure.measure(run, rows, **completed)
        files = numbers.keep(measured, made_from, stem)
    else:
        print("drawn from the numbers that are kept")
        files = numbers.files_at(stem)
    with mpl.rc_context(style.SETTINGS):
        pictures = style.save(figure.draw(measured), stem)
    return [*pictures, *files], measured.caption


def file_stem(name: str, rows: Sequence[str], options: Sequence[str]) -> str:
    """A file name that tells rows and options apart, so that one request does not overwrite another's files."""
    asked = [*rows, *sorted(option.replace("=", "") for option in options)]
    return "-".join([name, *(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in asked)])
