"""What an evaluation shows on W&B, through Lightning's logger; offline where no account is configured."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import wandb

from hetpure.config.tracking import build_logger
from hetpure.reports.table import HEADER, cells
from hetpure.runs.names import combinations, labels, text
from hetpure.runs.results import TableRow

P = ParamSpec("P")


def _shown_or_not(show: Callable[Concatenate["Dashboard", P], None]) -> Callable[Concatenate["Dashboard", P], None]:
    """What goes wrong with the display is said, and is the end of the display, not of the evaluation."""

    @wraps(show)
    def shown(self: "Dashboard", *args: P.args, **kwargs: P.kwargs) -> None:
        if self.logger is None:
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
        try:
            self.logger = build_logger(settings["project"], settings["name"] or output.name, output, settings["mode"])
        except OSError as error:
            self.give_up(error)
        self.config(config)

    def give_up(self, error: Exception) -> None:
        """Goes on without W&B."""
        self.logger = None
        self.say(f"W&B: {' '.join(str(error).split())[:200]}; going on without it")

    @_shown_or_not
    def config(self, config: dict[str, Any]) -> None:
        """The resolved config, and with it the start of the run."""
        assert self.logger is not None
        self.logger.log_hyperparams(config)

    @_shown_or_not
    def rows(self, lines: list[TableRow], cost: Mapping[str, float]) -> None:
        """A method's figures, one-shot under its name, other protocols below theirs; what an image cost."""
        assert self.logger is not None
        for line in lines:
            figures = {
                "standard_accuracy": line.standard.value,
                "robust_accuracy": line.robust.value,
                "seconds": line.seconds,
                "images": line.images,
            }
            prefix = line.method if line.protocol == "one-shot" else f"{line.method}/{line.protocol}"
            self.logger.log_metrics({f"{prefix}/{key}": value for key, value in figures.items()})
            if line.protocol == "one-shot":
                self._compared(line, {**figures, **cost})

    def _compared(self, line: TableRow, figures: dict[str, Any]) -> None:
        """The same under names that other runs and rows share."""
        assert self.logger is not None
        for side, accuracy in (("standard", line.standard), ("robust", line.robust)):
            figures |= {f"{side}_accuracy_low": accuracy.low, f"{side}_accuracy_high": accuracy.high}
        if self.alone:
            self.logger.log_metrics(figures)
        if line.method in self.grid:
            values = self.grid[line.method]
            names = labels(values)
            swept = {names[key]: v if isinstance(v, int | float) else text(v) for key, v in values.items()}
            # One step for all of them: what belongs together is one point.
            self.logger.experiment.log({f"sweep/{key}": value for key, value in {**swept, **figures}.items()})

    @_shown_or_not
    def curve(self, method: str, losses: list[float]) -> None:
        """The attacker's mean loss by iteration."""
        assert self.logger is not None
        run = self.logger.experiment
        run.define_metric(f"{method}/attack_loss", step_metric=f"{method}/iteration")
        if self.alone:
            run.define_metric("attack_loss", step_metric="iteration")
        for iteration, loss in enumerate(losses):
            figures = {f"{method}/iteration": iteration, f"{method}/attack_loss": loss, "iteration": iteration}
            self.logger.log_metrics({**figures, **({"attack_loss": loss} if self.alone else {})})

    @_shown_or_not
    def picture(self, method: str, file: Path) -> None:
        """A row's picture."""
        assert self.logger is not None
        self.logger.log_image(f"{method}/pictures", [str(file)])
        self.logger.log_image("pictures", [str(file)], caption=[method])

    @_shown_or_not
    def figure(self, name: str, file: Path) -> None:
        """A figure of the whole run."""
        assert self.logger is not None
        self.logger.log_image(name, [str(file)])

    @_shown_or_not
    def table(self, columns: list[str], data: list[list[Any]]) -> None:
        """A table of methods by columns, as numbers."""
        assert self.logger is not None
        self.logger.log_table("table", columns=columns, data=data)

    @_shown_or_not
    def finish(self, lines: list[TableRow]) -> None:
        """The result table, and the end of the run."""
        assert self.logger is not None
        self.logger.log_table("results", columns=list(HEADER), data=[list(cells(line)) for line in lines])
        wandb.finish()
