"""The work of ``train_diffusion.py``: a config in, a diffusers folder out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import seed_everything

from hetpure.config import to_dict
from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.runs.claim import claim
from hetpure.training.config import TrainDiffusionConfig
from hetpure.training.diffusion import DiffusionTrainer
from hetpure.training.fit import check_numbers, check_trainer, export_dtype, fit, rank_zero_print
from hetpure.training.logger import build_logger
from hetpure.training.purification_figures import PurificationFigures


def run(config: TrainDiffusionConfig) -> None:
    """Trains a denoiser and writes its averaged weights to ``<output>/denoiser``."""
    dtype = export_dtype(config.export_dtype)
    plain, output = to_dict(config), Path(config.output)
    check_trainer(plain["trainer"])
    check_numbers(plain)
    data = ImageDataModule(**plain["data"], seed=config.seed).prepare()
    chosen = plain["figures"]
    figures_of = PurificationFigures(
        chosen["levels"], chosen["steps"], chosen["images"], _target(chosen["classifier"], data), config.seed
    )
    seed_everything(config.seed, verbose=False)
    module = DiffusionTrainer(
        unet_arguments(plain["denoiser"], data.image_shape),
        optimizer=config.optimizer.name,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        lr_schedule=config.optimizer.schedule,
        warmup_steps=config.optimizer.warmup_steps,
        ema_decay=config.ema_decay,
        focus=config.timesteps.focus,
        focus_share=config.timesteps.share,
        levels=plain["timesteps"]["levels"],
        samples=config.samples.count,
        sample_steps=config.samples.steps,
        sample_folder=output / "samples",
        seed=config.seed,
    )
    rank_zero_print(f"denoiser: {sum(p.numel() for p in module.denoiser.parameters()):,} parameters")
    claim(output, config, free=("save_every", "export_dtype"))
    if config.compile:
        module.denoiser.compile()
    wandb = build_logger(config.wandb.project, config.wandb.name, output, config.wandb.mode)
    figures = fit(
        module,
        data,
        output,
        trainer=plain["trainer"],
        save_every=config.save_every,
        callbacks=[figures_of],
        wandb=wandb,
        config=plain,
    )
    if module.trainer.is_global_zero:
        module.export(output / "denoiser", dtype)
        print("  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        print(f"denoiser written to {output / 'denoiser'}")


def _target(settings: Mapping[str, Any], data: ImageDataModule) -> Classifier | None:
    """The classifier whose accuracy on purified images is shown; None where none is named."""
    if not settings:
        return None
    try:
        classifier = build_classifier(**settings)
        classifier.check_classes(data.image_shape, data.num_classes)
    except ConfigError as error:
        raise ConfigError(f"figures.{error}") from None
    return classifier


def unet_arguments(given: Mapping[str, Any], image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Arguments of ``UNet2DModel`` with size and channels taken from the data where they are not given.

    Raises:
        ConfigError: where they contradict the data, or the side cannot be halved as often as the network does.
    """
    channels, height, width = image_shape
    size = height if height == width else [height, width]
    arguments = {"sample_size": size, "in_channels": channels, "out_channels": channels, **given}
    for key, found in (("sample_size", size), ("in_channels", channels), ("out_channels", channels)):
        if arguments[key] != found:
            raise ConfigError(f"denoiser.{key}: found {arguments[key]}, the data's images need {found}")
    factor = 2 ** (len(arguments.get("block_out_channels", (224, 448, 672, 896))) - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"denoiser.block_out_channels: halves the image's side to 1/{factor}, "
            f"but the data's images are {height}x{width}"
        )
    return arguments
