"""The common style of all figures: colours, fonts, captions, files.

Colours are Okabe and Ito's, which colour-blind people can tell apart; no two lines differ in colour alone. Maps use
cividis, which is sequential, even in brightness, and made for the same readers.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase, SubFigure

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY, BLACK = "#56B4E9", "#CC79A7", "#777777", "#000000"

METHODS = (GREY, ORANGE, BLUE, GREEN, PURPLE, SKY, VERMILLION, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
NATURAL, ADVERSARIAL = BLUE, VERMILLION
MAP = "cividis"

SETTINGS: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "image.interpolation": "nearest",
    "pdf.fonttype": 42,  # text stays text
}  # fmt: skip

DPI = 130
_PNG: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
_PDF: dict[str, Any] = {"metadata": {"CreationDate": None}}
_CAPTION_POINTS = 8.0
_CHARACTERS_PER_INCH = 17.8  # of the caption's type, on average
_LINE_INCHES = 0.142


def sheet(width: float, height: float, caption: str) -> tuple[Figure, SubFigure]:
    """An empty figure with its caption below, and the part above it, to draw into.

    ``width`` and the drawing's ``height`` are in inches; the caption's height is added.
    """
    lines = textwrap.wrap(caption, int((width - 0.3) * _CHARACTERS_PER_INCH))
    below = len(lines) * _LINE_INCHES + 0.2
    figure = Figure(figsize=(width, height + below), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    drawing, text = stacked(figure, [height, below])
    text.text(0.15 / width, 1.0 - 0.05 / below, "\n".join(lines), fontsize=_CAPTION_POINTS, va="top", linespacing=1.15)
    return figure, drawing


def stacked(figure: FigureBase, heights: Sequence[float]) -> list[SubFigure]:
    """Parts of a figure, one below the other."""
    return list(cast(Any, figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False))[:, 0])


def beside(figure: FigureBase, widths: Sequence[float]) -> list[SubFigure]:
    """Parts of a figure, side by side."""
    return list(cast(Any, figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False))[0])


def shades(norm: Normalize) -> ScalarMappable:
    """The colours of the maps, for a colour bar."""
    return ScalarMappable(norm, MAP)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes a figure as STEM.png and STEM.pdf; the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf")]
    for file in files:
        part = file.with_name(f"part-{file.name}")
        more = _PDF if file.suffix == ".pdf" else _PNG
        with mpl.rc_context(SETTINGS):
            figure.savefig(part, **more)
        part.replace(file)
    return files
