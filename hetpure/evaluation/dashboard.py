"""What an evaluation shows on W&B, through Lightning's logger; offline where no account is configured."""

from pathlib import Path
from typing import Any

import wandb

from hetpure.evaluation.table import HEADER, TableRow, cells
from hetpure.tracking import build_logger


class Dashboard:
    """One W&B run for a command: the resolved config, and each row's scalars, loss curve and pictures under its name.

    Args:
        config: the resolved config.
        output: folder of the run, which holds W&B's files too.
    """

    def __init__(self, config: dict[str, Any], output: Path) -> None:
        settings = config["wandb"]
        self.logger = build_logger(settings["project"], settings["name"] or output.name, output, settings["mode"])
        if self.logger is not None:
            self.logger.log_hyperparams(config)

    def row(self, line: TableRow) -> None:
        """A row's figures."""
        if self.logger is not None:
            figures = {
                "standard_accuracy": line.standard.value,
                "robust_accuracy": line.robust.value,
                "seconds": line.seconds,
                "images": line.images,
            }
            self.logger.log_metrics({f"{line.method}/{key}": value for key, value in figures.items()})

    def curve(self, method: str, losses: list[float]) -> None:
        """The attacker's mean loss by iteration."""
        if self.logger is not None:
            run = self.logger.experiment
            run.define_metric(f"{method}/attack_loss", step_metric=f"{method}/iteration")
            for iteration, loss in enumerate(losses):
                self.logger.log_metrics({f"{method}/iteration": iteration, f"{method}/attack_loss": loss})

    def picture(self, method: str, file: Path) -> None:
        """A row's picture."""
        if self.logger is not None:
            self.logger.log_image(f"{method}/pictures", [str(file)])

    def finish(self, lines: list[TableRow]) -> None:
        """The result table, and the end of the run."""
        if self.logger is not None:
            self.logger.log_table("results", columns=list(HEADER), data=[list(cells(line)) for line in lines])
            wandb.finish()
