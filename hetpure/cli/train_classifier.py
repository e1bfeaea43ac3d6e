"""Train a classifier on images in [0, 1], its normalisation inside.

hetpure train-classifier --config digits_classifier.yaml [key=value ...]
"""

import argparse

from hetpure.cli import begin_work
from hetpure.cli.config_arguments import add_config_arguments as add_arguments
from hetpure.cli.config_arguments import resolve

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> None:
    """Trains."""
    from hetpure.training.config import complete_classifier

    if (config := resolve(options, complete_classifier)) is not None:
        from hetpure.training.run import train_classifier

        begin_work()
        train_classifier(config)
