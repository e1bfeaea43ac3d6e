"""Schemas of the two training configs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hetpure.config import DataConfig, WandbConfig, signature_schema, structure, to_dict


@dataclass
class OptimizerConfig:
    """Optimiser and learning rate; ``momentum`` is sgd's alone."""

    name: str = "adam"
    lr: float = 2e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "constant"
    warmup_steps: int = 0


@dataclass
class TimestepsConfig:
    """Which noise levels are trained more than others, and how validation cuts them."""

    focus: float = 1.0
    share: float = 0.0
    levels: list[int] = field(default_factory=lambda: [0, 50, 100, 200, 300, 500, 1000])


@dataclass
class SamplesConfig:
    """The sample grid: how many images, from how many DDIM steps."""

    count: int = 16
    steps: int = 50


@dataclass
class FiguresConfig:
    """What validation measures of purification: on how many images, from which timesteps, for which classifier.

    ``classifier`` takes the keys of ``hetpure.models.classifiers.build_classifier``; empty for none.
    """

    images: int = 256
    levels: list[int] = field(default_factory=lambda: [50, 100, 200, 400])
    steps: int = 20
    classifier: dict[str, Any] = field(default_factory=dict)


@dataclass
class NetworkConfig:
    """The classifier to train: name, arguments and normalisation, as ``hetpure.models.classifiers`` takes them."""

    name: str = "cifar_resnet20"
    arguments: dict[str, Any] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    image_size: int | None = None


@dataclass
class TrainDiffusionConfig:
    """``train_diffusion.py``."""

    data: DataConfig = field(default_factory=DataConfig)
    denoiser: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    timesteps: TimestepsConfig = field(default_factory=TimestepsConfig)
    ema_decay: float = 0.9999
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    compile: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    save_every: int = 500
    export_dtype: str = "float32"
    output: str = "runs/train_diffusion"


@dataclass
class TrainClassifierConfig:
    """``train_classifier.py``."""

    data: DataConfig = field(default_factory=DataConfig)
    classifier: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="sgd", lr=0.1, weight_decay=5e-4, schedule="cosine")
    )
    label_smoothing: float = 0.0
    compile: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    save_every: int = 500
    export_dtype: str = "float32"
    output: str = "runs/train_classifier"


def complete_classifier(raw: Mapping[str, Any]) -> TrainClassifierConfig:
    """Checks a raw config of ``train_classifier.py`` and fills in its defaults."""
    return structure(TrainClassifierConfig, raw)


def complete_diffusion(raw: Mapping[str, Any]) -> TrainDiffusionConfig:
    """Checks a raw config of ``train_diffusion.py`` and fills in its defaults."""
    config = structure(TrainDiffusionConfig, raw)
    if config.figures.classifier:
        from hetpure.models.classifiers import build_classifier

        schema = signature_schema(build_classifier, ())
        target = structure(schema, to_dict(config.figures.classifier), "figures.classifier")
        config.figures.classifier = to_dict(target)
    return config
