"""``evaluate.py``: evaluates every row of a config and leaves the results in a folder."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from hetpure.attacks.callback import AdversarialAttack
from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.evaluation.build import Row, build_rows
from hetpure.evaluation.dashboard import Dashboard
from hetpure.evaluation.files import check_files
from hetpure.evaluation.pictures import PictureRow, draw_pictures, picture_rows
from hetpure.evaluation.progress import EvaluationProgress
from hetpure.evaluation.recorder import Recorder
from hetpure.evaluation.records import RecordStore
from hetpure.evaluation.table import print_table, table_row, write_table
from hetpure.run_folder import claim
from hetpure.trainer import build_trainer


def run(config: DictConfig) -> None:
    """Runs an evaluation from a complete config; what the output folder holds already is not computed again.

    Raises:
        ConfigError: before any evaluation, for anything in the config that cannot be.
        KeyboardInterrupt: after the table of what is finished is written.
    """
    config.threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(config.threads)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # Lightning's launcher would divide the cores otherwise
    check_files(config)
    data = ImageDataModule(**to_dict(config.data)).prepare()
    rows = build_rows(config, data)
    trainers = [evaluation_trainer(to_dict(config.trainer)) for _ in rows]
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
            lines = [table_row(row.name, row.store.read(), len(data.indices), row.protocol) for row in rows]
            write_table(lines, title, output)
            print_table(lines, title)
            print(f"records, adversarial images, pictures and tables: {output}")
            dashboard.finish(lines)


def evaluation_trainer(settings: dict[str, Any]) -> lightning.Trainer:
    """Lightning's Trainer for an evaluation: one device by default, uneven shares left as they are.

    Raises:
        ConfigError: for what Lightning refuses.
    """
    ours: dict[str, Any] = {"devices": 1, **settings}
    if ours.get("strategy") == "ddp":
        # A process whose share is done waits for the others, however long their last attack takes.
        ours["strategy"] = DDPStrategy(timeout=timedelta(days=30))
    fixed = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,  # it pads, and padding counts a sample twice
        "inference_mode": False,  # attacks differentiate
    }
    return build_trainer({**ours, **fixed})


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
    """What the rows have in common, in a line."""
    images = f"{config.data.subset} images of " if config.data.subset else ""
    return f"{images}{config.data.name}; seed {config.seed}; chunks of {config.chunk_size}, {config.threads} threads"


def _finish_row(row: Row, count: int, data: ImageDataModule, folder: Path, dashboard: Dashboard) -> None:
    """Scalars, loss curve and pictures of a finished row."""
    records = row.store.read()
    dashboard.row(table_row(row.name, records, len(data.indices), row.protocol))
    losses = [record.attack_loss for record in records if record.attack_loss]
    if losses:
        dashboard.curve(row.name, torch.tensor(losses).mean(dim=0).tolist())
    pictures, amplification = _pictures(row, data, count)
    if pictures:
        draw_pictures(
            pictures,
            amplification,
            f"{row.name}; {row.protocol.attack}, {row.protocol.gradients}",
            folder / "pictures.png",
        )
        dashboard.picture(row.name, folder / "pictures.png")


def _pictures(row: Row, data: ImageDataModule, count: int) -> tuple[list[PictureRow], float]:
    scores = {record.index: record for record in row.store.read()}  # not all, where the Trainer was told to stop early
    items = [item(data.test_source, index) for index in [i for i in data.indices if i in scores][:count]]
    if not items:
        return [], 0.0
    device = row.model.device
    clean = torch.stack([one["image"] for one in items]).to(device)
    found = [row.store.adversarial(one["index"]) for one in items]
    adversarial = torch.stack([c if a is None else a.to(device) for c, a in zip(clean, found, strict=True)])
    sample = torch.tensor([one["index"] for one in items], device=device)
    names = data.class_names or [str(k) for k in range(data.num_classes)]
    captions = []
    for record in (scores[index] for index in sample.tolist()):
        seen = [f"clean: {names[_argmax(record.clean)]}"]
        seen += [f"attacked: {names[_argmax(record.adversarial)]}"] if record.adversarial else []
        captions.append("\n".join([names[record.label], *seen]))
    return picture_rows(row.model, clean, adversarial, sample, captions)


def _argmax(scores: list[float]) -> int:
    return scores.index(max(scores))
