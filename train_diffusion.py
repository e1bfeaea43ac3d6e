"""Trains a denoiser: ``python train_diffusion.py --config svhn.yaml [key=value ...]``."""

import sys

from hetpure.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train-diffusion"))
