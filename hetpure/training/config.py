"""Schemas of the two training configs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from hetpure.config import DataConfig, WandbConfig, output_folder, signature_schema, structure, to_dict
from hetpure.errors import ConfigError, require
from hetpure.training.objectives.registry import complete_objective, takes

Config = TypeVar("Config", bound="TrainingConfig")

CHOICES = {
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "cosine"),
    "export_dtype": ("float32", "float16"),
}


@dataclass
class OptimizerConfig:
    """Optimiser and learning rate: ``constant`` or, to zero at the last step, ``cosine``, after a linear warm-up.

    ``momentum`` is sgd's alone (Nesterov).
    """

    name: str = "adam"
    lr: float = 2e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "constant"
    warmup_steps: int = 0


@dataclass
class TimestepsConfig:
    """Which noise levels are trained more than others, and into which ranges validation sorts them.

    A ``share`` of the training timesteps is drawn below ``focus`` (a fraction of T, where purification works); the rest
    are uniform over all. Both are for the objective ``noise``; others draw as their papers do. ``levels`` are the
    bounds of the ranges by which the validation loss is shown.
    """

    focus: float = 1.0
    share: float = 0.0
    levels: list[int] = field(default_factory=lambda: [0, 50, 100, 200, 300, 500, 1000])


@dataclass
class SamplesConfig:
    """The sample grid: how many images (0 for no grid), from how many DDIM steps."""

    count: int = 16
    steps: int = 50


@dataclass
class FiguresConfig:
    """What validation measures of purification: on how many images, from which timesteps, for which classifier.

    ``steps`` counts the grid points of all timesteps, as in ``UniformPurifier``. ``classifier`` takes the keys of
    ``hetpure.models.classifiers.build_classifier``; empty for none.
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
class TrainingConfig:
    """What both trainings take."""

    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compile: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    save_every: int = 500
    export_dtype: str = "float32"
    output: str = "runs/training"


@dataclass
class TrainDiffusionConfig(TrainingConfig):
    """``hetpure train-diffusion``.

    ``objective`` has the keys of ``hetpure.training.objectives.registry``. ``init_from`` is a denoiser's folder, whose
    network is trained further; the section ``denoiser`` then changes its arguments.
    """

    denoiser: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    timesteps: TimestepsConfig = field(default_factory=TimestepsConfig)
    ema_decay: float = 0.9999
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)


@dataclass
class TrainClassifierConfig(TrainingConfig):
    """``hetpure train-classifier``."""

    classifier: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="sgd", lr=0.1, weight_decay=5e-4, schedule="cosine")
    )
    label_smoothing: float = 0.0


def complete_classifier(raw: Mapping[str, Any]) -> TrainClassifierConfig:
    """Checks a raw config of ``hetpure train-classifier`` and fills in its defaults."""
    config = _checked(TrainClassifierConfig, raw)
    require(0.0 <= config.label_smoothing < 1.0, "label_smoothing", config.label_smoothing, "0 up to 1")
    return config


def complete_diffusion(raw: Mapping[str, Any]) -> TrainDiffusionConfig:
    """Checks a raw config of ``hetpure train-diffusion`` and fills in its defaults."""
    config = _checked(TrainDiffusionConfig, raw)
    require(0.0 <= config.ema_decay <= 1.0, "ema_decay", config.ema_decay, "0..1")
    require(0.0 < config.timesteps.focus <= 1.0, "timesteps.focus", config.timesteps.focus, "above 0 and up to 1")
    require(config.samples.count >= 0, "samples.count", config.samples.count, "0 or more")
    require(0.0 <= config.timesteps.share <= 1.0, "timesteps.share", config.timesteps.share, "0..1")
    config.objective = complete_objective(config.objective)
    if config.timesteps.share and not takes(config.objective, "timesteps"):
        draws = f"0: the objective {config.objective['name']} draws timesteps of its own"
        raise ConfigError("timesteps.share", found=config.timesteps.share, accepted=draws)
    if config.figures.classifier:
        from hetpure.models.classifiers import build_classifier

        schema = signature_schema(build_classifier, ())
        config.figures.classifier = to_dict(structure(schema, config.figures.classifier, "figures.classifier"))
    return config


def _checked(schema: type[Config], raw: Mapping[str, Any]) -> Config:
    """Raises ConfigError for values that no training can use."""
    config = structure(schema, raw)
    config.output = output_folder(config.output)
    for key, accepted in CHOICES.items():
        require(attrgetter(key)(config) in accepted, key, attrgetter(key)(config), ", ".join(accepted))
    most = 2**32 - 1  # numpy's
    require(0 <= config.seed <= most, "seed", config.seed, f"0 to {most}")
    least = {"optimizer.lr": 0, "optimizer.weight_decay": 0, "optimizer.warmup_steps": 0, "save_every": 1}
    for key, bound in least.items():
        require(attrgetter(key)(config) >= bound, key, attrgetter(key)(config), f"{bound} or more")
    return config
