"""Bad configs and arguments: each is refused in one line, before anything is written, and nothing in it is executed.

Every key of the three schemas meets every bad value of its kind; then come lists of nasty files and arguments. All
commands run in this process, up to the point where they would begin to write.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import COMMON
from hetpure.cli import main
from hetpure.config.schema import signature_schema
from hetpure.evaluation.config import EvaluateConfig
from hetpure.models.classifiers import build_classifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.training.config import TrainClassifierConfig, TrainDiffusionConfig

COMMANDS = {
    "evaluate": ("--config", "digits.yaml", "rows=null", "data.subset=2", "wandb.mode=disabled"),
    "train-classifier": ("--config", "digits_classifier.yaml", "wandb.mode=disabled"),
    "train-diffusion": ("--config", "digits_denoiser.yaml", "wandb.mode=disabled"),
}
"""Commands whose configs are tried, with arguments that are right."""

EXECUTE = '!!python/object/apply:os.system ["touch EXECUTED"]'

NEVER = (
    "1" + "0" * 23, "9" * 5000, "0x" + "9" * 5000, "!!int abc", "!!bool abc", "!!float abc", "!!timestamp abc",
    "!!binary aGk=", EXECUTE, "${nowhere}", "[" * 500, "[1", '"a\\0b"', "a\udcffb", "x" * 5000,
    "{" + ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'])}]" for i in range(12)) + "}",
)  # fmt: skip
"""Values that no key takes."""

SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF = "{zz: 1}", "[[1]]", ".nan", "many", "''", "8/0", "1.5"
INFINITE = (".inf", "-.inf", "1e999")

WRONG: dict[Any, tuple[str, ...]] = {
    int: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    float: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, *INFINITE),
    bool: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    str: (SECTION, LIST),
    Literal: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    list: (SECTION, TEXT, "[.inf]", "['', {}]"),
    dict: (LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
}
"""Values that a kind of key does not take."""
