"""Trains a denoiser: ``python train_diffusion.py --config svhn.yaml [key=value ...]``."""

import sys

from hetpure.cli import main
from hetpure.training.train_diffusion import complete, run

if __name__ == "__main__":
    sys.exit(
        main(complete, run, "Train a denoiser: noise prediction on a diffusers UNet, with an average of its weights.")
    )
