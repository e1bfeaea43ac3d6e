"""Trains a classifier: ``python train_classifier.py --config digits_classifier.yaml [key=value ...]``."""

import sys

from hetpure.cli import main
from hetpure.training.train_classifier import complete, run

if __name__ == "__main__":
    sys.exit(main(complete, run, "Train a classifier on images in [0, 1], its normalisation inside."))
