"""The figures by name. A figure's module is imported when it is made."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hetpure.config import parse_overrides, signature_schema, structure, to_dict
from hetpure.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from hetpure.studies.finished import FinishedRun
    from hetpure.studies.numbers import Measured


@dataclass(frozen=True)
class Figure:
    """One figure: the functions ``measure`` and ``draw`` of the module ``hetpure.studies.NAME``.

    Attributes:
        name: of the figure, its module and its files.
        number: the paper's.
        about: what it shows, in a few words.
        options: the arguments of ``measure`` after the run and the rows.
    """

    name: str
    number: int
    about: str
    options: tuple[str, ...]

    def measure(self, run: "FinishedRun", rows: Sequence[str], **options: Any) -> "Measured":
        """Computes the numbers."""
        return self._module().measure(run, rows, **options)

    def draw(self, measured: "Measured") -> "Drawing":
        """Draws the numbers."""
        return self._module().draw(measured)

    def complete(self, given: Sequence[str]) -> dict[str, Any]:
        """All options, from those given as ``key=value`` and the defaults.

        Raises:
            ConfigError: for an unknown key or a wrong type.
        """
        schema = signature_schema(self._module().measure, supplied=("run", "rows"))
        return to_dict(structure(schema, parse_overrides(given)))

    def _module(self) -> Any:
        return import_module(f"hetpure.studies.{self.name}")


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("harmony", 3, "harmony by U, multi-step and single-step resampling", ("images", "draws", "shown", "U")),
        Figure("trajectories", 4, "t-SNE of purification trajectories", ("images", "draws", "background")),
        Figure("masks", 5, "attention map, mask, purified image", ("images", "first")),
        Figure("joint", 6, "joint distribution of original and purified values", ("images", "draws", "bins")),
        Figure("ablation", 7, "accuracy against tau, or t_large x t_small, or other keys", ("keys", "protocol")),
        Figure("cost", 8, "time and memory of a gradient against U", ("U", "rounds")),
        Figure("features", 9, "feature distance, natural and adversarial", ("images", "draws")),
    )
}


def figure_named(name: str) -> Figure:
    """The figure of a name, or of the paper's number.

    Raises:
        ConfigError: for another name; names the closest.
    """
    by_number = {str(figure.number): figure for figure in FIGURES.values()}
    if figure := FIGURES.get(name) or by_number.get(name):
        return figure
    close = difflib.get_close_matches(name, FIGURES, n=1) or [*FIGURES]
    raise ConfigError(f"{name!r} is no figure; did you mean {', '.join(close)}?")
