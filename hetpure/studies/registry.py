"""The figures by name. A figure's class is imported when the figure is drawn."""

import ast
import difflib
from typing import TYPE_CHECKING

from hetpure.config.registry import parse_source, resolve
from hetpure.errors import ConfigError

if TYPE_CHECKING:
    from hetpure.studies.figure import RunFigure

NUMBERS = {
    "harmony": "3", "trajectories": "4", "masks": "5", "joint": "6", "ablation": "7", "cost": "8", "features": "9",
}  # fmt: skip
"""The numbers of the paper's figures, which are accepted for their names."""

FIGURES = {name: f"hetpure.studies.{name}:{name.capitalize()}" for name in (*NUMBERS, "tradeoff")}
"""``module:Class`` of each figure, the paper's and others; see ``RunFigure``."""


def find_figure(name: str) -> tuple[str, str]:
    """Name and ``module:Class`` of a figure, from its name, its number in the paper, or a ``module:Class`` itself."""
    for known, target in FIGURES.items():
        if name in (known, NUMBERS.get(known)):
            return known, target
    if ":" in name:
        return name.partition(":")[2], name
    close = difflib.get_close_matches(name, FIGURES, n=1) or FIGURES
    raise ConfigError("FIGURE", f"did you mean {', '.join(close)}?", found=name)


def load_figure(target: str) -> type["RunFigure"]:
    """Imports a figure's class; ConfigError where that fails."""
    try:
        return resolve(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("FIGURE", f"which cannot be imported ({error})", found=target) from None


def describe_figure(target: str) -> tuple[str, list[str]]:
    """First line of a figure's docstring, and its options, from its source: importing it takes seconds."""
    module, _, name = target.partition(":")
    (cls,) = (node for node in parse_source(module) if isinstance(node, ast.ClassDef) and node.name == name)
    options = [ast.unparse(node.target) for node in cls.body if isinstance(node, ast.AnnAssign)]
    return (ast.get_docstring(cls) or "").partition("\n")[0], options
