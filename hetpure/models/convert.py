"""Converts another project's checkpoint once, to safetensors: without an optimizer's state, and quick to load."""

from pathlib import Path

from hetpure.errors import ConfigError
from hetpure.models.ddpmpp import save_converted
from hetpure.models.denoisers import ContinuousDenoiser, DiffusersDenoiser, build_denoiser
from hetpure.models.diffusers_folder import save_diffusers


def convert(source: str, target: Path, format: str) -> str:
    """Reads a checkpoint in one of ``FORMATS``, writes it to a new file (``.safetensors``) or folder, the ``target``.

    Returns:
        The format that loads the target.

    Raises:
        ConfigError: where the source cannot be read, or the target exists or cannot be written.
    """
    if target.exists():
        raise ConfigError(str(target), "exists already")
    denoiser = build_denoiser(source, format)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(denoiser, ContinuousDenoiser):
            if target.suffix != ".safetensors":
                raise ConfigError(str(target), f"format {format} is converted to a file", accepted="NAME.safetensors")
            save_converted(denoiser, target)
            return format
        assert isinstance(denoiser, DiffusersDenoiser)
        save_diffusers(denoiser.unet, denoiser.schedule, target)
    except OSError as error:
        raise ConfigError(str(target), f"cannot be written: {error}") from None
    return "diffusers"
