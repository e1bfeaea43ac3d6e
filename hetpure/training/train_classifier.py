"""The work of ``train_classifier.py``: a config in, a state dict and its description out."""

from pathlib import Path

import torch
from lightning import seed_everything

from hetpure.config import to_dict
from hetpure.data import ImageDataModule
from hetpure.models.classifiers import Classifier, build_network, crop_of, interpolation_of, normalization_of
from hetpure.runs.claim import claim
from hetpure.training.classifier import ClassifierTrainer
from hetpure.training.config import TrainClassifierConfig
from hetpure.training.fit import check_numbers, check_trainer, export_dtype, fit, rank_zero_print
from hetpure.training.logger import build_logger


def run(config: TrainClassifierConfig) -> None:
    """Trains a classifier and writes it to ``<output>/classifier``."""
    dtype = export_dtype(config.export_dtype)
    plain, output = to_dict(config), Path(config.output)
    check_trainer(plain["trainer"])
    check_numbers(plain)
    data = ImageDataModule(**plain["data"], seed=config.seed).prepare()
    seed_everything(config.seed, verbose=False)
    chosen = plain["classifier"]
    network = build_network(chosen["name"], arguments=chosen["arguments"])
    mean, std = normalization_of(network, data.image_shape[0])
    classifier = Classifier(
        network,
        chosen["mean"] or mean,
        chosen["std"] or std,
        chosen["image_size"],
        crop_of(network, chosen["image_size"]),
        interpolation_of(network),
    )
    classifier.check_classes(data.image_shape, data.num_classes)
    classifier.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module = ClassifierTrainer(
        classifier,
        data.num_classes,
        optimizer=config.optimizer.name,
        lr=config.optimizer.lr,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        lr_schedule=config.optimizer.schedule,
        warmup_steps=config.optimizer.warmup_steps,
        label_smoothing=config.label_smoothing,
        seed=config.seed,
    )
    rank_zero_print(f"classifier: {sum(p.numel() for p in network.parameters()):,} parameters")
    claim(output, config, free=("save_every", "export_dtype"))
    if config.compile:
        network.compile()
    wandb = build_logger(config.wandb.project, config.wandb.name, output, config.wandb.mode)
    figures = fit(
        module, data, output, trainer=plain["trainer"], save_every=config.save_every, wandb=wandb, config=plain
    )
    if module.trainer.is_global_zero:
        module.export(output / "classifier", chosen["name"], chosen["arguments"], data.image_shape, dtype)
        print("  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        print(f"classifier written to {output / 'classifier'}")
