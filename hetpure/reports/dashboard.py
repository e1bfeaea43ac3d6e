"""What an evaluation shows on Weights & Biases; offline if no account is configured."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from hetpure.config.tracking import quiet_settings, wandb_mode
from hetpure.reports.plots.sweep import FIGURE
from hetpure.reports.table import columns_of
from hetpure.reports.tables.paper_table import build_table, numbers
from hetpure.runs.files import one_line
from hetpure.runs.names import combinations, labels, text
from hetpure.runs.read import RunFolder
from hetpure.runs.results import TableRow


def _may_fail(method: Callable[..., None]) -> Callable[..., None]:
    """A method that does nothing without a W&B run, and whose failure ends the dashboard but not the evaluation."""

    @wraps(method)
    def guarded(self: "Dashboard", *arguments: Any) -> None:
        if self.run is not None:
            try:
                method(self, *arguments)
            except Exception as error:
                self.give_up(error)

    return guarded


class Dashboard:
    """One W&B run for a command: the resolved config, and each row's numbers, loss curve and pictures under its name.

    Some things are also logged under names that panels know whatever the rows are called: the numbers of a single row
    without its name, so that the runs of a sweep can be compared; each combination of a grid as ``sweep/KEY`` next to
    ``sweep/robust_accuracy`` and the rest; the pictures of all rows as ``pictures``.

    Args:
        config: the resolved config.
        output: the run folder, which holds W&B's files too.
        say: prints why W&B cannot be used; the evaluation goes on without it.
    """

    def __init__(self, config: dict[str, Any], output: Path, say: Callable[[str], None] = print) -> None:
        settings, self.say, self.single = config["wandb"], say, len(config["rows"]) < 2
        self.grid = combinations(config["grid"]) if config["grid"] else {}
        self.run: Any = None
        if (mode := wandb_mode(settings["mode"])) == "disabled":
            return
        import wandb

        self.wandb, name = wandb, settings["name"] or output.name
        try:
            output.mkdir(parents=True, exist_ok=True)
            quiet = quiet_settings(mode, output)
            self.run = wandb.init(project=settings["project"], name=name, dir=output, config=config, settings=quiet)
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Goes on without W&B."""
        self.run = None
        self.say(f"W&B: {one_line(error)[:200]}; going on without it")

    @_may_fail
    def rows(self, rows: list[TableRow], cost: Mapping[str, float]) -> None:
        """A method's numbers, one-shot under its name and other protocols below it; network calls per image."""
        for row in rows:
            sides = {"standard_accuracy": row.standard, "robust_accuracy": row.robust}
            values: dict[str, Any] = {name: accuracy.value for name, accuracy in sides.items()}
            values |= {"seconds": row.seconds, "images": row.images}
            prefix = row.method if row.protocol == "one-shot" else f"{row.method}/{row.protocol}"
            self.run.log({f"{prefix}/{key}": value for key, value in values.items()})
            if row.protocol == "one-shot":
                for name, accuracy in sides.items():
                    values |= {f"{name}_low": accuracy.low, f"{name}_high": accuracy.high}
                self._log_comparable(row.method, {**values, **cost})

    def _log_comparable(self, method: str, values: Mapping[str, Any]) -> None:
        if self.single:
            self.run.log(values)
        if combination := self.grid.get(method):
            names = labels(combination)
            swept = {names[key]: v if isinstance(v, int | float) else text(v) for key, v in combination.items()}
            # In one step: what belongs together is one point of a plot.
            self.run.log({f"sweep/{key}": value for key, value in {**swept, **values}.items()})

    @_may_fail
    def curve(self, method: str, losses: list[float]) -> None:
        """The attacker's mean loss by iteration."""
        prefixes = [f"{method}/", ""] if self.single else [f"{method}/"]
        for prefix in prefixes:
            self.run.define_metric(f"{prefix}attack_loss", step_metric=f"{prefix}iteration")
        for iteration, loss in enumerate(losses):
            values = {f"{prefix}attack_loss": loss for prefix in prefixes}
            self.run.log({f"{method}/iteration": iteration, "iteration": iteration, **values})

    @_may_fail
    def picture(self, method: str, file: Path) -> None:
        """A row's picture."""
        self.run.log({f"{method}/pictures": [self.wandb.Image(str(file))]})
        self.run.log({"pictures": [self.wandb.Image(str(file), caption=method)]})

    @_may_fail
    def finish(self, folder: RunFolder) -> None:
        """The tables and the grid's plot of the whole run; ends the W&B run."""
        if folder.config["table"].get("lines"):
            columns, data = numbers(build_table(folder.config, folder.report))
            self.run.log({"table": self.wandb.Table(columns=columns, data=data)})
        if folder.config["grid"] and (folder.path / FIGURE).is_file():
            self.run.log({"sweep/figure": [self.wandb.Image(str(folder.path / FIGURE))]})
        columns = columns_of(folder.report.rows)
        data = [[str(column.value(row)) for column in columns] for row in folder.report.rows]
        self.run.log({"results": self.wandb.Table(columns=[column.heading for column in columns], data=data)})
        self.run.finish()
