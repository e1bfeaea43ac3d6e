"""The work of the two training commands: a config in, a network in a folder that the evaluation loads out."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, seed_everything
from lightning.pytorch.utilities import rank_zero_only

from hetpure.config import to_dict
from hetpure.config.tracking import wandb_mode
from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier, build_classifier, build_network, with_preprocessing
from hetpure.models.denoisers import LINEAR_VP
from hetpure.runs.claim import claim
from hetpure.training.classifier import ClassifierTrainer
from hetpure.training.config import TrainClassifierConfig, TrainDiffusionConfig, TrainingConfig
from hetpure.training.diffusion import DiffusionTrainer, network_arguments, open_start, unet_arguments
from hetpure.training.fit import build_logger, build_trainer, fit
from hetpure.training.module import TrainingModule
from hetpure.training.objectives.registry import build_objective
from hetpure.training.purification_figures import PurificationFigures


def train_classifier(config: TrainClassifierConfig) -> None:
    """Trains a classifier and writes it to ``<output>/classifier``."""
    data, chosen = _open(config), config.classifier
    seed_everything(config.seed, verbose=False)
    try:
        network = build_network(chosen.name, arguments=chosen.arguments)
        preprocessing = {"image_size": chosen.image_size, "mean": chosen.mean, "std": chosen.std}
        classifier = with_preprocessing(network, data.image_shape[0], **preprocessing)
    except ConfigError as error:
        raise error.within("classifier") from None
    classifier.check_classes(data.image_shape, data.num_classes)
    classifier.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    smoothing = config.label_smoothing
    module = ClassifierTrainer(
        classifier, data.num_classes, config.optimizer, label_smoothing=smoothing, seed=config.seed
    )
    recipe = {"architecture": chosen.name, "arguments": chosen.arguments, "input_size": data.image_shape}
    _train(config, module, data, "classifier", network, partial(module.export, **recipe))


def train_diffusion(config: TrainDiffusionConfig) -> None:
    """Trains a denoiser and writes its averaged weights to ``<output>/denoiser``."""
    data, figures = _open(config), to_dict(config.figures)
    target = _target(figures.pop("classifier"), data, "figures")
    attacked = _target(config.objective.get("classifier", {}), data, "objective")
    objective = build_objective(config.objective, schedule=LINEAR_VP, timesteps=config.timesteps, classifier=attacked)
    start = open_start(config.init_from) if config.init_from else None
    arguments = {**(network_arguments(start) if start else {}), **config.denoiser}
    seed_everything(config.seed, verbose=False)
    module = DiffusionTrainer(
        unet_arguments(arguments, data.image_shape, data.num_classes),
        config.optimizer,
        objective=objective,
        start=start,
        timesteps=config.timesteps,
        ema_decay=config.ema_decay,
        samples=config.samples,
        sample_folder=Path(config.output) / "samples",
        seed=config.seed,
    )
    try:
        callback = PurificationFigures(module, **figures, classifier=target, seed=config.seed)
    except ConfigError as error:
        raise error.within("figures") from None
    _train(config, module, data, "denoiser", module.trained, module.export, callback)


def _open(config: TrainingConfig) -> ImageDataModule:
    build_trainer(config.trainer, logger=False)  # refuses what Lightning refuses, before anything is written
    wandb_mode(config.wandb.mode)  # likewise
    return ImageDataModule(**to_dict(config.data), seed=config.seed).prepare()


def _target(settings: Mapping[str, Any], data: ImageDataModule, section: str) -> Classifier | None:
    """The classifier that a section names, for the data; None where none is named."""
    if not settings:
        return None
    try:
        classifier = build_classifier(**settings)
        classifier.check_classes(data.image_shape, data.num_classes)
    except ConfigError as error:
        raise error.within(section) from None
    return classifier


def _train(
    config: TrainingConfig,
    module: TrainingModule,
    data: ImageDataModule,
    name: str,
    network: torch.nn.Module,
    export: Callable[..., None],
    *callbacks: Callback,
) -> None:
    """Claims the output folder, trains the network in it, and exports it as ``<output>/<name>``."""
    output, wandb = Path(config.output), config.wandb
    rank_zero_only(print)(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    claim(output, config, free=("save_every", "export_dtype"))
    if config.compile:
        network.compile()
    figures = fit(
        module,
        data,
        output,
        trainer=config.trainer,
        save_every=config.save_every,
        callbacks=callbacks,
        wandb=build_logger(wandb.project, wandb.name, output, wandb.mode),
        config=to_dict(config),
    )
    if module.trainer.is_global_zero:
        export(output / name, dtype=getattr(torch, config.export_dtype))
        print("  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        print(f"{name} written to {output / name}")
