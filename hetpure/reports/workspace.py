"""Lays out the W&B workspace of this project's evaluations: the panels that a person needs, as a view of a project.

Panels come in pairs where a sweep can have run in two ways: a line over the points of one run (a config with a grid),
and a scatter plot over runs (W&B's agents, a run a combination).
"""

import json
from typing import TYPE_CHECKING, Any

from hetpure.errors import ConfigError

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

SWEPT = {
    "tau": "purifier.tau",
    "t_large": "purifier.t_large",
    "t_small": "purifier.t_small",
    "U": "purifier.U",
    "S": "ensemble.size",
    "blocks": "purifier.blocks",
    "iterations": "attack.steps",
    "EOT": "attack.eot",
}
"""Names of swept keys on W&B, as ``sweep/NAME``, and the keys themselves."""

BOTH = ["standard_accuracy", "robust_accuracy"]


def layout(entity: str, project: str, name: str = "hetpure") -> "ws.Workspace":
    """The workspace, not yet saved.

    Args:
        entity: W&B user or team.
        project: W&B project.
        name: of the view.

    Raises:
        ConfigError: where the library for it is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.reports.v2.interface import GradientPoint, ParallelCoordinatesPlotColumn
    except ImportError:
        raise ConfigError("wandb-workspaces is missing: pip install 'hetpure[dashboards]'") from None

    def points(label: str) -> wr.LinePlot:
        """A run's grid."""
        return wr.LinePlot(
            title=f"accuracy over {label} (one run's grid)",
            x=f"sweep/{label}",
            y=[f"sweep/{key}" for key in BOTH],
            title_x=label,
            range_y=(0.0, 1.0),
            smoothing_type="none",
        )

    def runs(label: str, of: str = "robust_accuracy") -> wr.ScatterPlot:
        """A run a value."""
        return wr.ScatterPlot(
            title=f"{of.replace('_', ' ')} over {label} (a run a point)",
            x=wr.Config(SWEPT[label]),
            y=wr.SummaryMetric(of),
            range_y=(0.0, 1.0),
        )

    def pair(label: str) -> list[Any]:
        return [points(label), runs(label), runs(label, "standard_accuracy")]

    cold_to_warm = [GradientPoint(color=c, offset=o) for c, o in (("#00224e", 0), ("#7d7c78", 50), ("#fee838", 100))]
    heat = [
        wr.MediaBrowser(title="the grid's own figure: heat map of t_large x t_small", media_keys=["sweep/figure"]),
        wr.ScatterPlot(
            title="robust accuracy over t_large x t_small (a run a point)",
            x=wr.Config(SWEPT["t_large"]),
            y=wr.Config(SWEPT["t_small"]),
            z=wr.SummaryMetric("robust_accuracy"),
            gradient=cold_to_warm,
        ),
        wr.ParallelCoordinatesPlot(
            title="t_large, t_small and both accuracies (a run a line)",
            columns=[
                ParallelCoordinatesPlotColumn(metric=metric)
                for metric in (
                    wr.Config(SWEPT["t_large"]),
                    wr.Config(SWEPT["t_small"]),
                    *map(wr.SummaryMetric, BOTH),
                )
            ],
            gradient=cold_to_warm,
        ),
    ]
    attack = [
        points("iterations"),
        runs("iterations"),
        wr.LinePlot(
            title="attacker's mean loss by iteration, all rows",
            x="iteration",
            metric_regex="/attack_loss$",
            smoothing_type="none",
        ),
        points("EOT"),
        runs("EOT"),
    ]
    pictures = [
        wr.MediaBrowser(title="clean, adversarial, mask, purified", media_keys=["pictures"], gallery_axis="step"),
    ]
    cost: list[Any] = [
        wr.ScatterPlot(
            title=f"robust accuracy over {label}",
            x=wr.SummaryMetric(key),
            y=wr.SummaryMetric("robust_accuracy"),
            range_y=(0.0, 1.0),
        )
        for key, label in (
            ("attack_calls", "denoiser calls of the attack, an image"),
            ("defense_calls", "denoiser calls of the predictions, an image"),
        )
    ]
    cost += [
        wr.LinePlot(
            title=f"{label} (one run's grid)", x="Step", y=[f"sweep/{key}" for key in keys], smoothing_type="none"
        )
        for label, keys in (
            ("denoiser calls an image", ["attack_calls", "defense_calls"]),
            ("seconds", ["seconds"]),
        )
    ]
    cost.append(wr.BarPlot(title="seconds", metrics=["seconds"]))

    def section(title: str, panels: list[Any], columns: int = 3) -> "ws.Section":
        rows = -(-len(panels) // columns)
        return ws.Section(
            name=title,
            panels=panels,
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
        )

    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            section("Accuracy over tau", pair("tau")),
            section("Heat map of t_large x t_small", heat),
            section("Robust accuracy over attack iterations and EOT", attack),
            section("U, S and blocks", pair("U") + pair("S") + [_blocks(wr)]),
            section("Pictures", pictures, columns=1),
            section("Cost", cost),
        ],
    )


def _blocks(wr: Any) -> Any:
    """Lists are no numbers to plot over: a bar for each."""
    return wr.BarPlot(
        title="robust accuracy by blocks (runs)", metrics=["robust_accuracy"], groupby=wr.Config(SWEPT["blocks"])
    )


def specification(workspace: "ws.Workspace") -> dict[str, Any]:
    """What W&B would be sent, as plain containers."""
    view = workspace._to_model()
    return json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
