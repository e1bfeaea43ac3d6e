"""Convert another project's checkpoint to safetensors: without an optimizer's state, and quick to load.

    hetpure convert edm-cifar10-32x32-uncond-vp.pkl cifar10_edm.safetensors --format edm
    hetpure convert ckpt.pth svhn_ddpm --format ddpm

ddpm and guided_diffusion become folders that diffusers reads too (denoiser.format=diffusers); edm and score_sde become
one file, which the same format loads.
"""

import argparse
from pathlib import Path

FORMATS = ("ddpm", "guided_diffusion", "edm", "score_sde", "score_sde_matched")
"""Those of ``hetpure.models.denoisers`` that can be converted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("source", help="the checkpoint")
    parser.add_argument("target", type=Path, help="what to write: a .safetensors file, or a diffusers folder")
    parser.add_argument("--format", required=True, choices=FORMATS)


def run(options: argparse.Namespace) -> None:
    """Converts."""
    from hetpure.models.convert import convert

    loads = convert(options.source, options.target, options.format)
    print(f"{options.target}: load it with denoiser.format={loads} denoiser.path={options.target}")
