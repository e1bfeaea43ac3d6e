"""Converts another project's checkpoint once, to safetensors: without an optimizer's state, and quick to load."""

from pathlib import Path

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from hetpure.errors import ConfigError
from hetpure.models.ddpmpp import save_converted
from hetpure.models.denoisers import ContinuousDenoiser, DiffusersDenoiser, build_denoiser
from hetpure.schedule import Schedule


def convert(source: str, target: Path, format: str) -> str:
    """Reads a checkpoint and writes its conversion.

    Args:
        source: the checkpoint.
        target: file (``.safetensors``) or folder to write; must not be there yet.
        format: of the source, one of ``FORMATS``.

    Returns:
        The format that loads the target.

    Raises:
        ConfigError: where the source cannot be read, or the target is there or cannot be written.
    """
    if target.exists():
        raise ConfigError(f"{target}: is there already")
    denoiser = build_denoiser(source, format)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(denoiser, ContinuousDenoiser):
            if target.suffix != ".safetensors":
                raise ConfigError(f"{target}: found no .safetensors, which format {format} is converted to")
            save_converted(denoiser.network, denoiser.conditioning, target)
            return format
        assert isinstance(denoiser, DiffusersDenoiser)
        denoiser.unet.save_pretrained(target)
        schedule = Schedule()
        DDPMScheduler(schedule.T, schedule.beta_start, schedule.beta_end).save_pretrained(target)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error}") from None
    return "diffusers"
