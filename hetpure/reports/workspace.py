"""The layout of a W&B workspace for this project's evaluations, saved as a view of a project.

A sweep runs in one of two ways, so its panels come in pairs: a line over the points of one run (a config with a grid),
and a scatter plot over runs (W&B's agents, one run per combination).
"""

import json
from typing import TYPE_CHECKING, Any

from hetpure.errors import ConfigError
from hetpure.runs.names import labels

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

KEYS = [f"purifier.{key}" for key in ("tau", "t_large", "t_small", "U", "blocks")]
SWEPT = {name: key for key, name in labels([*KEYS, "ensemble.size", "attack.steps", "attack.eot"]).items()}
"""Names of swept keys on W&B, as ``sweep/NAME``, and the keys themselves."""

BOTH = ["standard_accuracy", "robust_accuracy"]


def layout(entity: str, project: str, name: str = "hetpure") -> "ws.Workspace":
    """The workspace of a W&B user or team, not yet saved.

    Raises:
        ConfigError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.reports.v2.interface import GradientPoint, ParallelCoordinatesPlotColumn
    except ImportError:
        raise ConfigError("wandb-workspaces", "is not installed: pip install 'hetpure[dashboards]'") from None

    def line(title: str, keys: list[str], x: str = "Step", **settings: Any) -> wr.LinePlot:
        """Over the combinations of one run's grid."""
        y: list[Any] = [f"sweep/{key}" for key in keys]
        return wr.LinePlot(title=f"{title} (one run's grid)", x=x, y=y, smoothing_type="none", **settings)

    def runs(title: str, x: Any, metric: str = "robust_accuracy", **settings: Any) -> wr.ScatterPlot:
        """Over runs, one point each."""
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(metric), range_y=(0.0, 1.0), **settings)

    def sweep(label: str, *metrics: str) -> list[Any]:
        """Accuracy over one swept key: one run's grid, then each metric over runs."""
        title = f"accuracy over {label}"
        points = line(title, BOTH, f"sweep/{label}", title_x=label, range_y=(0.0, 1.0))
        titles = {metric: f"{metric.replace('_', ' ')} over {label} (one point per run)" for metric in metrics}
        return [points, *(runs(titles[metric], wr.Config(SWEPT[label]), metric) for metric in metrics)]

    both = ("robust_accuracy", "standard_accuracy")
    colors = [GradientPoint(color=c, offset=o) for c, o in (("#00224e", 0), ("#7d7c78", 50), ("#fee838", 100))]
    times = [wr.Config(SWEPT["t_large"]), wr.Config(SWEPT["t_small"])]
    columns = [ParallelCoordinatesPlotColumn(metric=metric) for metric in (*times, *map(wr.SummaryMetric, BOTH))]
    blocks = wr.BarPlot(  # lists are no numbers to plot over
        title="robust accuracy by blocks (runs)", metrics=["robust_accuracy"], groupby=wr.Config(SWEPT["blocks"])
    )
    loss = wr.LinePlot(
        title="attacker's mean loss by iteration, all rows", x="iteration", metric_regex="/attack_loss$",
        smoothing_type="none",
    )  # fmt: skip
    heat_map = wr.ScatterPlot(
        title="robust accuracy over t_large x t_small (one point per run)", x=times[0], y=times[1],
        z=wr.SummaryMetric("robust_accuracy"), gradient=colors,
    )  # fmt: skip
    parallel = wr.ParallelCoordinatesPlot(
        title="t_large, t_small and both accuracies (one line per run)", columns=columns, gradient=colors
    )
    pictures = wr.MediaBrowser(title="clean, adversarial, mask, purified", media_keys=["pictures"], gallery_axis="step")
    one_runs_map = wr.MediaBrowser(title="heat map of one run's grid", media_keys=["sweep/figure"])
    iterations, eot = sweep("iterations", "robust_accuracy"), sweep("EOT", "robust_accuracy")
    sections: dict[str, list[Any]] = {
        "Accuracy over tau": sweep("tau", *both),
        "Heat map of t_large x t_small": [one_runs_map, heat_map, parallel],
        "Robust accuracy over attack iterations and EOT": [*iterations, loss, *eot],
        "U, S and blocks": [*sweep("U", *both), *sweep("S", *both), blocks],
        "Pictures": [pictures],
        "Cost": [
            runs("robust accuracy over the attack's denoiser calls per image", wr.SummaryMetric("attack_calls")),
            runs("robust accuracy over the defense's denoiser calls per image", wr.SummaryMetric("defense_calls")),
            line("denoiser calls per image", ["attack_calls", "defense_calls"]),
            line("seconds", ["seconds"]),
            wr.BarPlot(title="seconds", metrics=["seconds"]),
        ],
    }

    def section(title: str, panels: list[Any]) -> ws.Section:
        width = 1 if len(panels) == 1 else 3
        settings = ws.SectionLayoutSettings(columns=width, rows=-(-len(panels) // width))
        return ws.Section(name=title, panels=panels, is_open=True, layout_settings=settings)

    laid_out = [section(title, panels) for title, panels in sections.items()]
    return ws.Workspace(entity=entity, project=project, name=name, sections=laid_out)


def specification(workspace: "ws.Workspace") -> dict[str, Any]:
    """What would be sent to W&B, as plain containers."""
    view = workspace._to_model()
    return json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
