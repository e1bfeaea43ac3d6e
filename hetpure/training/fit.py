"""What both training commands share: the Trainer, its loggers, resuming, the final figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from hetpure.config.trainer import build_trainer as trainer_of
from hetpure.config.trainer import check_trainer as check_keys
from hetpure.errors import ConfigError
from hetpure.training.progress import StepBar
from hetpure.training.resume import ResumeFile

DTYPES = {"float32": torch.float32, "float16": torch.float16}
RESERVED = ("logger", "callbacks", "default_root_dir", "use_distributed_sampler", "enable_checkpointing", "max_epochs")


def fit(
    module: LightningModule,
    data: LightningDataModule,
    output: str | Path,
    *,
    trainer: Mapping[str, Any],
    save_every: int,
    callbacks: Sequence[Callback] = (),
    wandb: WandbLogger | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains to ``max_steps`` (or the time limit), going on from ``output/last.ckpt`` where there is one.

    Args:
        module: what to train.
        data: with train and validation loaders.
        output: folder for the resume file, logs and ``metrics.json``.
        trainer: arguments of Lightning's Trainer; ``max_steps`` is needed, and counts optimiser steps.
        save_every: optimiser steps between two resume files.
        callbacks: further callbacks.
        wandb: logger, beside the CSV file that is always written.
        config: to log.

    Returns:
        The final validation figures, also in ``output/metrics.json``.

    Raises:
        ConfigError: for Trainer arguments that cannot be used.
        KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    resume = ResumeFile(output / "last.ckpt", save_every)
    loggers = [CSVLogger(output, name="logs"), *([wandb] if wandb is not None else [])]
    for logger in loggers if config else ():
        logger.log_hyperparams(dict(config or {}))
    bar = [StepBar()] if trainer.get("enable_progress_bar", True) else []
    runner = build_trainer(trainer, logger=loggers, callbacks=[resume, *bar, *callbacks], default_root_dir=str(output))
    checkpoint = str(resume.path) if resume.path.is_file() else None
    runner.strategy.checkpoint_io = WeightsOnlyIO()
    with resume.listening():
        runner.fit(module, datamodule=data, ckpt_path=checkpoint)
    if resume.interrupted:
        raise KeyboardInterrupt
    figures = runner.validate(module, datamodule=data, verbose=False)
    metrics = {"steps": runner.global_step, **(figures[0] if figures else {})}
    if runner.is_global_zero:
        (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


class WeightsOnlyIO(TorchCheckpointIO):
    """Reads a resume file as data, never as code.

    ``Trainer.fit(weights_only=True)`` says the same, but only since Lightning 2.6.
    """

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)


def build_trainer(arguments: Mapping[str, Any], **fixed: Any) -> Trainer:
    """Lightning's Trainer, with validation counted in steps.

    Args:
        arguments: the user's ``trainer`` section.
        fixed: arguments that the program sets.

    Raises:
        ConfigError: for an argument that the Trainer does not take, one that is set elsewhere, or no ``max_steps``.
    """
    check_trainer(arguments)
    steps: int = arguments["max_steps"]
    merged = {
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "check_val_every_n_epoch": None,
        "val_check_interval": max(1, steps // 10) * arguments.get("accumulate_grad_batches", 1),
        **arguments,
        **fixed,
    }
    return trainer_of(merged)


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key of the ``trainer`` section that cannot be used, or no ``max_steps``."""
    check_keys(arguments, RESERVED)
    steps = arguments.get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"trainer.max_steps: found {steps}, accepted is the number of optimiser steps, 1 or more")


@rank_zero_only
def rank_zero_print(line: str) -> None:
    """Prints on the first process alone."""
    print(line)


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for numbers of a training config that no run can use."""
    lowest = {
        "optimizer.lr": 0.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup_steps": 0,
        "save_every": 1,
        "seed": 0,
    }
    for key, least in lowest.items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if not value >= least:
            raise ConfigError(f"{key}: found {value}, accepted is {least} or more")
    if not 0.0 <= config.get("label_smoothing", 0.0) < 1.0:
        raise ConfigError(f"label_smoothing: found {config['label_smoothing']}, accepted is 0 up to 1")


def export_dtype(name: str) -> torch.dtype:
    """The type of exported weights that a config names.

    Raises:
        ConfigError: for another than float32 and float16.
    """
    if name not in DTYPES:
        raise ConfigError(f"export_dtype: found {name!r}, accepted are {', '.join(DTYPES)}")
    return DTYPES[name]
