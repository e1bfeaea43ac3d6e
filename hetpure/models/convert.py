"""Converts another project's checkpoint once, to safetensors: without an optimizer's state, and quick to load.

    python -m hetpure.models.convert edm-cifar10-32x32-uncond-vp.pkl cifar10_edm.safetensors --format edm
    python -m hetpure.models.convert ckpt.pth svhn_ddpm --format ddpm

``ddpm`` and ``guided_diffusion`` become folders that diffusers reads too (``denoiser.format=diffusers``); ``edm`` and
``score_sde`` become one file, which the same format loads.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from hetpure.errors import ConfigError
from hetpure.models.ddpmpp import save_converted
from hetpure.models.denoisers import FORMATS, ContinuousDenoiser, DiffusersDenoiser, build_denoiser
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 for bad input (one line on stderr)."""
    parser = argparse.ArgumentParser(
        prog="python -m hetpure.models.convert", description="Another project's checkpoint to safetensors."
    )
    parser.add_argument("source", help="the checkpoint")
    parser.add_argument("target", type=Path, help="what to write: a .safetensors file, or a diffusers folder")
    parser.add_argument("--format", required=True, choices=[f for f in FORMATS if f != "diffusers"])
    options = parser.parse_args(arguments)
    try:
        loads = convert(options.source, options.target, options.format)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.target}: load it with denoiser.format={loads} denoiser.path={options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
