"""``report.html``: a run as one page to look at, without a network."""

import sys
from pathlib import Path

from hetpure.data.datamodule import ImageDataModule
from hetpure.evaluation.pictures import PictureRow
from hetpure.reports.page.render import write_page
from hetpure.runs.images import save_pictures, save_samples
from hetpure.runs.read import PICTURES, SAMPLES


def keep_samples(data: ImageDataModule, output: Path) -> None:
    """Keeps for the page what the samples look like and what their classes are called, if there is room for it."""
    try:
        save_samples(data, output / SAMPLES)
    except Exception as error:
        _say(output / SAMPLES, error)


def keep_pictures(rows: list[PictureRow], amplification: float, folder: Path) -> None:
    """Keeps for the page a method's pictures, if there is room for them."""
    try:
        save_pictures(rows, amplification, folder / PICTURES)
    except Exception as error:
        _say(folder / PICTURES, error)


def try_to_write_page(output: Path) -> None:
    """Writes the page; whatever goes wrong is said, and never the end of an evaluation."""
    try:
        write_page(output)
    except Exception as error:
        _say(output / "report.html", error)


def _say(file: Path, error: Exception) -> None:
    reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(f"{file}: cannot be written: {reason}; going on without it", file=sys.stderr)
