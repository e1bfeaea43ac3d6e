"""Trains a classifier: ``python train_classifier.py --config digits_classifier.yaml [key=value ...]``."""

import sys

from hetpure.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train-classifier"))
