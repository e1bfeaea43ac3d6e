"""The figures by the paper's number."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Drawn

from hetpure.config import parse_overrides, signature_schema, structure, to_dict
from hetpure.studies import ablation, cost, features, harmony, joint, masks, trajectories
from hetpure.studies.numbers import Measured


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        about: what it shows, in a few words.
        measure: (run, rows, **options) to numbers; its further arguments are the figure's options.
        draw: numbers to a drawing.
    """

    about: str
    measure: Callable[..., Measured]
    draw: Callable[[Measured], Drawn]

    def options(self, given: Sequence[str]) -> dict[str, Any]:
        """All options, completed.

        Args:
            given: ``key=value``.

        Raises:
            ConfigError: for an unknown key or a wrong type.
        """
        schema = signature_schema(self.measure, supplied=("run", "rows"))
        return to_dict(structure(schema, parse_overrides(given)))

    @property
    def option_names(self) -> list[str]:
        """Names of the options."""
        return [name for name in inspect.signature(self.measure).parameters if name not in ("run", "rows")]


FIGURES = {
    3: Figure("harmony by U, multi-step and single-step resampling", harmony.measure, harmony.draw),
    4: Figure("t-SNE of purification trajectories", trajectories.measure, trajectories.draw),
    5: Figure("attention map, mask, purified image", masks.measure, masks.draw),
    6: Figure("joint distribution of original and purified values", joint.measure, joint.draw),
    7: Figure("accuracy against tau, or t_large x t_small, or other keys", ablation.measure, ablation.draw),
    8: Figure("time and memory of a gradient against U", cost.measure, cost.draw),
    9: Figure("feature distance, natural and adversarial", features.measure, features.draw),
}
