"""Lightning's Trainer as both training commands use it: counted in steps, resumed from a file, logged quietly."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from hetpure.config.tracking import quiet_settings, wandb_mode
from hetpure.config.trainer import build_trainer as trainer_of
from hetpure.config.trainer import check_trainer as check_keys
from hetpure.errors import ConfigError, require
from hetpure.training.resume import WAY_OUT, ResumeFile
from hetpure.training.state_file import StateFileIO

METRICS = "metrics.json"
RESERVED = ("logger", "callbacks", "default_root_dir", "use_distributed_sampler", "enable_checkpointing", "max_epochs")


def fit(
    module: LightningModule,
    data: LightningDataModule,
    output: Path,
    *,
    trainer: Mapping[str, Any],
    save_every: int,
    callbacks: Sequence[Callback] = (),
    wandb: WandbLogger | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains to ``max_steps`` (or the time limit), resuming from ``output/last.ckpt`` or ``previous.ckpt``.

    Args:
        module: what to train.
        data: with train and validation loaders.
        output: folder for the resume file, logs and ``metrics.json``.
        trainer: arguments of Lightning's Trainer; ``max_steps`` is needed, and counts optimiser steps.
        save_every: optimiser steps between two resume files.
        callbacks: further ones.
        wandb: logger, in addition to the CSV file that is always written.
        config: to log.

    Returns:
        The final validation figures, also in ``output/metrics.json``.

    Raises:
        ConfigError: for Trainer arguments that cannot be used, or no resume file that can.
        KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    output.mkdir(parents=True, exist_ok=True)
    resume = ResumeFile(output / "last.ckpt", save_every)
    kept = [file.name for file in (output / METRICS, *output.glob("*.ckpt.damaged*")) if file.exists()]
    if kept and not resume.exists:  # or a finished network would be replaced by one that begins at step 0
        raise ConfigError("output", f"{output} has {kept[0]}, but no {resume.path.name}; {WAY_OUT}")
    loggers = [CSVLogger(output, name="logs"), *([wandb] if wandb is not None else [])]
    for logger in loggers if config else ():
        logger.log_hyperparams(dict(config or {}))
    bar = [StepBar()] if trainer.get("enable_progress_bar", True) else []
    runner = build_trainer(trainer, logger=loggers, callbacks=[resume, *bar, *callbacks], default_root_dir=str(output))
    runner.strategy.checkpoint_io = StateFileIO()
    with resume.listening(), resume.restoring(runner):
        runner.fit(module, datamodule=data, ckpt_path=str(resume.path) if resume.exists else None)
    if resume.interrupted:
        raise KeyboardInterrupt
    figures = runner.validate(module, datamodule=data, verbose=False)
    metrics = {"steps": runner.global_step, **(figures[0] if figures else {})}
    if runner.is_global_zero:
        (output / METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def build_trainer(arguments: Mapping[str, Any], **fixed: Any) -> Trainer:
    """Lightning's Trainer of the user's ``trainer`` section and what is ``fixed``, with validation counted in steps."""
    check_trainer(arguments)
    merged = {
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "check_val_every_n_epoch": None,
        "val_check_interval": max(1, arguments["max_steps"] // 10) * arguments.get("accumulate_grad_batches", 1),
        **arguments,
        **fixed,
    }
    return trainer_of(merged)


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key of the ``trainer`` section that cannot be used, or no ``max_steps``."""
    check_keys(arguments, RESERVED)
    steps = arguments.get("max_steps")
    valid = isinstance(steps, int) and steps >= 1
    require(valid, "trainer.max_steps", steps, "the number of optimiser steps, 1 or more")


def build_logger(project: str, name: str | None, directory: Path, mode: str = "auto") -> WandbLogger | None:
    """A quiet W&B logger, or None where disabled; see ``wandb_mode`` for modes and errors.

    W&B makes up a ``name`` for None. The ``directory`` to write to is created where it is missing.
    """
    if (mode := wandb_mode(mode)) == "disabled":
        return None
    directory.mkdir(parents=True, exist_ok=True)
    offline, settings = mode != "online", quiet_settings(mode, directory)
    logger = WandbLogger(project=project, name=name, save_dir=str(directory), offline=offline, settings=settings)
    # Lightning still hands on an argument that W&B has dropped and warns about in every run.
    logger._wandb_init.pop("anonymous", None)
    return logger


class StepBar(RichProgressBar):
    """Progress in steps, with the time left and current figures, but without epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training".ljust(len(self.validation_description))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
