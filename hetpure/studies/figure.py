"""A figure of a run: it measures, and it draws what was measured, now or from saved numbers."""

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hetpure.config import parse_overrides, structure, to_dict
from hetpure.reports.plots import style
from hetpure.runs.files import write_whole
from hetpure.studies.finished import FinishedRun
from hetpure.studies.registry import load_figure


@dataclass(frozen=True)
class Measured:
    """A figure's content."""

    numbers: dict[str, Any]  # what is plotted, as JSON has it
    caption: str  # what is seen, and of how many images
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # images, by name

    def save(self, stem: Path, source: Mapping[str, Any]) -> None:
        """Writes STEM.json, and STEM.npz where there are arrays; ``source`` is everything that they depend on."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        if self.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **self.arrays)  # pyright: ignore[reportArgumentType]
            write_whole(_file(stem, "npz"), buffer.getvalue())
        content = {"made_from": source, "caption": self.caption, "numbers": self.numbers}
        # Last, so that a JSON file never lacks its arrays.
        write_whole(_file(stem, "json"), json.dumps(content, allow_nan=False))

    @classmethod
    def load(cls, stem: Path, source: Mapping[str, Any]) -> Self | None:
        """What ``save`` wrote; None where there is nothing, or it was made from another source."""
        try:
            content = json.loads(_file(stem, "json").read_text())
            if content["made_from"] != json.loads(json.dumps(source)):
                return None
            arrays = {}
            if (file := _file(stem, "npz")).is_file():
                with np.load(file, allow_pickle=False) as saved:
                    arrays = dict(saved)
            return cls(content["numbers"], content["caption"], arrays)
        except (OSError, ValueError, KeyError, TypeError):
            return None


class RunFigure(ABC):
    """A figure of a run. A subclass is a dataclass: its fields are the figure's options, each with a default.

    The first line of its docstring is what ``hetpure figures --help`` says of it.
    """

    @abstractmethod
    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        """Computes what the figure shows of some rows; with none named, of those that it chooses.

        Raises:
            ConfigError: for an option, a row or a run that the figure cannot be made from.
        """

    @abstractmethod
    def draw(self, measured: Measured) -> Figure:
        """Draws it, from the numbers alone."""


def make_figure(
    name: str, target: str, folder: Path, rows: Sequence[str], options: Sequence[str], out: Path | None, device: str
) -> tuple[list[Path], str]:
    """Measures and draws a figure of a run into ``out`` (by default ``figures`` in the run's folder).

    Options ``key=value`` are the figure's, or keys of the config: where data and weights have moved, or the code that
    the folder names. Numbers that are saved already are not measured again. Returns the files, the picture first, and
    the caption.
    """
    moved = [option for option in options if "." in option.split("=", 1)[0]]
    own = [option for option in options if option not in moved]
    figure_class = load_figure(target)
    completed = to_dict(structure(figure_class, parse_overrides(own)))
    figure, run = figure_class(**completed), FinishedRun(folder, moved, device)
    source = {"figure": name, "rows": list(rows), "options": completed, "run": run.state()}
    stem = (out or folder / "figures") / file_stem(name, rows, own)
    measured = Measured.load(stem, source)
    if measured is None:
        measured = figure.measure(run, rows)
        measured.save(stem, source)
    else:
        print("drawn from the saved numbers")
    with mpl.rc_context(style.SETTINGS):
        pictures = style.save(figure.draw(measured), stem)
    saved = [_file(stem, kind) for kind in ("json", "npz")]
    return [*pictures, *(file for file in saved if file.is_file())], measured.caption


def file_stem(name: str, rows: Sequence[str], options: Sequence[str]) -> str:
    """A file name with the rows and options, so that figures with others do not overwrite each other's files."""
    parts = [*rows, *sorted(option.replace("=", "") for option in options)]
    return "-".join([name, *(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)])


def plural(count: int, thing: str) -> str:
    """``1 draw``, ``3 draws``."""
    return f"{count} {thing}{'s' * (count != 1)}"


def _file(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")
