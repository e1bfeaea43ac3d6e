"""Check a purifier: gradient, keyed randomness, independent rows, counted calls, views; a verdict a line.

    hetpure check my.py:MyPurifier [key=value ...]

Keys are the constructor's arguments. Images are 8x8 with three channels, the denoiser is a smooth function, the
classifier has two convolution blocks, block1 and block2. The exit code is 4 where a check fails.
"""

import argparse

from hetpure.config import parse_overrides
from hetpure.errors import FAILED_CLAIM
from hetpure.purification.registry import check_purifier_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("purifier", help="a purifier's name, FILE.py:Class or package.module:Class")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="arguments of its constructor")


def run(options: argparse.Namespace) -> int:
    """Prints the verdicts; returns the exit code."""
    settings = {"name": options.purifier, **parse_overrides(options.settings)}
    check_purifier_keys(settings)

    import torch

    from hetpure.models.denoisers import Denoiser
    from hetpure.purification.base import Purifier
    from hetpure.purification.checks import SmoothDenoiser, check_purifier, small_classifier
    from hetpure.purification.registry import build_purifier, complete_settings

    completed = complete_settings(settings)

    def build(denoiser: Denoiser, dtype: torch.dtype) -> Purifier:
        return build_purifier(completed, small_classifier(dtype), denoiser).to(dtype)

    build(SmoothDenoiser(), torch.float32)  # values that it refuses are bad input, not a failed check
    failed = False
    for verdict in check_purifier(build):
        word = {True: "ok", False: "FAILED", None: "-"}[verdict.passed]
        print(f"{word:8}{verdict.name:16}{verdict.details}", flush=True)
        failed |= verdict.passed is False
    return FAILED_CLAIM if failed else 0
