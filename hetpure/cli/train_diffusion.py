"""Train a denoiser: noise prediction on a diffusers UNet, with an average of its weights.

hetpure train-diffusion --config svhn.yaml [key=value ...]
"""

import argparse

from hetpure.cli import begin_work
from hetpure.cli.config_arguments import add_config_arguments as add_arguments
from hetpure.cli.config_arguments import resolve

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> None:
    """Trains."""
    from hetpure.training.config import complete_diffusion

    if (config := resolve(options, complete_diffusion)) is not None:
        from hetpure.training.run import train_diffusion

        begin_work()
        train_diffusion(config)
