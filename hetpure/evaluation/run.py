"""``evaluate.py``: evaluates every row of a config and leaves the results in a folder."""

from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.registry import build_attack
from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError
from hetpure.evaluation.build import Row, build_rows
from hetpure.evaluation.dashboard import Dashboard
from hetpure.evaluation.pictures import PictureRow, draw_pictures, picture_rows
from hetpure.evaluation.progress import EvaluationProgress
from hetpure.evaluation.recorder import Recorder
from hetpure.evaluation.records import RecordStore
from hetpure.evaluation.table import print_table, table_row, write_table
from hetpure.run_folder import claim


def run(config: DictConfig) -> None:
    """Runs an evaluation from a complete config; what the output folder holds already is not computed again.

    Raises:
        ConfigError: before any evaluation, for anything in the config that cannot be.
        KeyboardInterrupt: after the table of what is finished is written.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    data = ImageDataModule(**to_dict(config.data)).prepare()
    rows = build_rows(config, data)
    trainers = [build_trainer(to_dict(config.trainer)) for _ in rows]
    first = trainers[0].is_global_zero
    output = Path(config.output)
    claim(output, config, free=("pictures", "data.batch_size"))
    dashboard = Dashboard(to_dict(config), output) if first else None
    try:
        for row, trainer in zip(rows, trainers, strict=True):
            evaluate_row(row, trainer, data)
            if dashboard is not None:
                row.model.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
                _finish_row(row, config.pictures, data, output / row.name, dashboard)
    finally:
        # Also after Ctrl-C or a failure: the table of what there is.
        if dashboard is not None:
            title = describe(config)
            lines = [table_row(row.name, row.store.read(), len(data.indices)) for row in rows]
            write_table(lines, title, output)
            print_table(lines, title)
            print(f"records, adversarial images, pictures and tables: {output}")
            dashboard.finish(lines)


def build_trainer(settings: dict[str, Any]) -> lightning.Trainer:
    """Lightning's Trainer for an evaluation.

    Args:
        settings: its arguments, over this project's defaults (one device, no padding of uneven shares).

    Raises:
        ConfigError: for what Lightning refuses.
    """
    ours: dict[str, Any] = {
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,  # it pads, and padding counts a sample twice
    }
    try:
        return lightning.Trainer(**{**ours, **settings, "inference_mode": False})  # attacks differentiate
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None


def evaluate_row(row: Row, trainer: lightning.Trainer, data: ImageDataModule) -> None:
    """Evaluates the samples that have no record yet, each process its share.

    Raises:
        KeyboardInterrupt: after Ctrl-C; finished batches are recorded.
    """
    done = {record.index for record in row.store.read()}
    data.exclude = frozenset(done)
    left = len(data.indices) - len(done)
    if not left:
        if trainer.is_global_zero:
            print(f"{row.name}: all {len(done)} images are done already")
        return
    share = len(range(trainer.global_rank, left, trainer.world_size))
    progress = EvaluationProgress(row.name, share, row.attack.steps if row.attack else 0)
    callbacks: list[Any] = [Recorder(RecordStore(row.store.folder, trainer.global_rank)), progress]
    if row.attack is not None and row.gradient is not None:
        callbacks.append(AdversarialAttack(row.attack, row.gradient, progress.on_attack_iteration))
    cast(Any, trainer).callbacks.extend(callbacks)
    try:
        trainer.test(row.model, datamodule=data, verbose=False)
        trainer.strategy.barrier()  # the table needs every process's records
    except SystemExit:
        # Lightning turns Ctrl-C into an exit of its own.
        raise KeyboardInterrupt from None


def describe(config: DictConfig) -> str:
    """What was measured, in a line."""
    attack = build_attack(to_dict(config.attack))
    images = f"{config.data.subset} images of " if config.data.subset else ""
    kind = "no attack" if attack is None else f"{attack}, EOT {config.attack.eot}"
    return f"{images}{config.data.name}; {kind}; S {config.ensemble.size}; seed {config.seed}"


def _finish_row(row: Row, count: int, data: ImageDataModule, folder: Path, dashboard: Dashboard) -> None:
    """Scalars, loss curve and pictures of a finished row."""
    records = row.store.read()
    dashboard.row(table_row(row.name, records, len(data.indices)))
    losses = [record.attack_loss for record in records if record.attack_loss]
    if losses:
        dashboard.curve(row.name, torch.tensor(losses).mean(dim=0).tolist())
    pictures, amplification = _pictures(row, data, count)
    if pictures:
        draw_pictures(pictures, amplification, f"{row.name}; {row.attack or 'no attack'}", folder / "pictures.png")
        dashboard.picture(row.name, folder / "pictures.png")


def _pictures(row: Row, data: ImageDataModule, count: int) -> tuple[list[PictureRow], float]:
    items = [item(data.test_source, index) for index in data.indices[:count]]
    if not items:
        return [], 0.0
    device = row.model.device
    clean = torch.stack([item["image"] for item in items]).to(device)
    found = [row.store.adversarial(item["index"]) for item in items]
    adversarial = torch.stack([c if a is None else a.to(device) for c, a in zip(clean, found, strict=True)])
    label, sample = (torch.tensor([item[key] for item in items], device=device) for key in ("label", "index"))
    names = data.class_names or [str(k) for k in range(data.num_classes)]
    return picture_rows(row.model, clean, adversarial, label, sample, names)
