"""What an evaluation shows on W&B; offline where no account is configured."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from hetpure.config.tracking import quiet_settings, wandb_mode
from hetpure.reports.plots.sweep import FIGURE
from hetpure.reports.table import COLUMNS
from hetpure.reports.tables.forms import numbers
from hetpure.reports.tables.paper_table import build_table
from hetpure.runs.names import combinations, labels, text
from hetpure.runs.read import RunFolder
from hetpure.runs.results import TableRow

P = ParamSpec("P")


def _shown_or_not(show: Callable[Concatenate["Dashboard", P], None]) -> Callable[Concatenate["Dashboard", P], None]:
    """What goes wrong with the display is said, and is the end of the display, not of the evaluation."""

    @wraps(show)
    def shown(self: "Dashboard", *args: P.args, **kwargs: P.kwargs) -> None:
        if self.run is None:
            return
        try:
            show(self, *args, **kwargs)
        except Exception as error:
            self.give_up(error)

    return shown


class Dashboard:
    """One W&B run for a command: the resolved config, and each row's scalars, loss curve and pictures under its name.

    What panels find whatever the rows are called: a single row's scalars without its name in front, so that the runs of
    a sweep compare; each combination of a grid as ``sweep/KEY`` beside ``sweep/robust_accuracy`` and the rest; all
    rows' pictures as ``pictures``.

    Args:
        config: the resolved config.
        output: folder of the run, which holds W&B's files too.
        say: told where W&B cannot be used; the evaluation goes on without.
    """

    def __init__(self, config: dict[str, Any], output: Path, say: Callable[[str], None] = print) -> None:
        settings = config["wandb"]
        self.say = say
        self.alone = len(config["rows"]) < 2
        self.grid = combinations(config["grid"]) if config["grid"] else {}
        self.run: Any = None
        if (mode := wandb_mode(settings["mode"])) == "disabled":
            return
        import wandb

        self.wandb, name = wandb, settings["name"] or output.name
        try:
            output.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(
                project=settings["project"], name=name, dir=output, config=config, settings=quiet_settings(mode)
            )
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Goes on without W&B."""
        self.run = None
        self.say(f"W&B: {' '.join(str(error).split())[:200]}; going on without it")

    @_shown_or_not
    def rows(self, lines: list[TableRow], cost: Mapping[str, float]) -> None:
        """A method's figures, one-shot under its name, other protocols below theirs; what an image cost."""
        for line in lines:
            figures = {
                "standard_accuracy": line.standard.value,
                "robust_accuracy": line.robust.value,
                "seconds": line.seconds,
                "images": line.images,
            }
            prefix = line.method if line.protocol == "one-shot" else f"{line.method}/{line.protocol}"
            self.run.log({f"{prefix}/{key}": value for key, value in figures.items()})
            if line.protocol == "one-shot":
                self._compared(line, {**figures, **cost})

    def _compared(self, line: TableRow, figures: dict[str, Any]) -> None:
        """The same under names that other runs and rows share."""
        for side, accuracy in (("standard", line.standard), ("robust", line.robust)):
            figures |= {f"{side}_accuracy_low": accuracy.low, f"{side}_accuracy_high": accuracy.high}
        if self.alone:
            self.run.log(figures)
        if line.method in self.grid:
            values = self.grid[line.method]
            names = labels(values)
            swept = {names[key]: v if isinstance(v, int | float) else text(v) for key, v in values.items()}
            # One step for all of them: what belongs together is one point.
            self.run.log({f"sweep/{key}": value for key, value in {**swept, **figures}.items()})

    @_shown_or_not
    def curve(self, method: str, losses: list[float]) -> None:
        """The attacker's mean loss by iteration."""
        self.run.define_metric(f"{method}/attack_loss", step_metric=f"{method}/iteration")
        if self.alone:
            self.run.define_metric("attack_loss", step_metric="iteration")
        for iteration, loss in enumerate(losses):
            figures = {f"{method}/iteration": iteration, f"{method}/attack_loss": loss, "iteration": iteration}
            self.run.log({**figures, **({"attack_loss": loss} if self.alone else {})})

    @_shown_or_not
    def picture(self, method: str, file: Path) -> None:
        """A row's picture."""
        self.run.log({f"{method}/pictures": [self.wandb.Image(str(file))]})
        self.run.log({"pictures": [self.wandb.Image(str(file), caption=method)]})

    @_shown_or_not
    def finish(self, report: RunFolder) -> None:
        """The tables and the grid's figure of a whole run, and the end of the W&B run."""
        if report.config["table"].get("lines"):
            columns, data = numbers(build_table(report.config, report.report))
            self.run.log({"table": self.wandb.Table(columns=columns, data=data)})
        if report.config["grid"] and (report.path / FIGURE).is_file():
            self.run.log({"sweep/figure": [self.wandb.Image(str(report.path / FIGURE))]})
        data = [[str(column.value(row)) for column in COLUMNS] for row in report.report.rows]
        self.run.log({"results": self.wandb.Table(columns=[column.heading for column in COLUMNS], data=data)})
        self.run.finish()
