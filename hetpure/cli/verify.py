"""Check the claims of a run folder: hetpure verify RUN_FOLDER [--samples N] [--output DIR] [key=value ..].

Records and tables are checked against each other, saved images against the data. Then the run's networks judge all
saved images again, with the recorded and with fresh draws, and attack some samples from scratch. One line a check; the
exit code is 4 if a claim fails. The verdicts are written to verification.json.

data.root=.., classifier.weights=.. and denoiser.path=.. say where images and weights are. Code that the folder names
runs only if you name it as well, such as classifier.name=my.py:Net.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hetpure.errors import FAILED_CLAIM, ConfigError, require

if TYPE_CHECKING:
    from hetpure.runs.results import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument(
        "--samples", type=int, default=2, metavar="N", help="attack N samples of each row again (%(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for verification.json; by default RUN_FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="where images and weights are; allowed code")


def run(options: argparse.Namespace) -> int:
    """Verifies; returns the exit code."""
    from hetpure.runs.files import one_line, read_config

    require(options.samples >= 0, "--samples", options.samples, "0 or more")
    read_config(options.folder, "evaluation's")
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output {options.output}", one_line(error)) from None
    from hetpure.runs.verification import OUTCOMES, write_verification
    from hetpure.verification.verify import verify

    done = verify(options.folder, options.overrides, options.samples, tell)
    try:
        file = write_verification(done, options.output or options.folder)
    except OSError as error:
        print(f"verification.json cannot be written: {one_line(error)}; --output DIR says where to", file=sys.stderr)
        file = None
    count = {state: sum(v.passed is state for v in done.verdicts) for state in OUTCOMES}
    print(
        f"{OUTCOMES[done.passed]}: {count[True]} checks ok, {count[False]} FAILED, {count[None]} not checked"
        + (f"; {os.fspath(file)}" if file else "")
    )
    return FAILED_CLAIM if done.passed is False else 0


def tell(row: str, verdict: "Verdict") -> None:
    """Prints a verdict on a line. What a folder says is shown without control characters."""
    mark = {True: "ok", False: "FAILED", None: "not checked"}[verdict.passed]
    line = f"{row + ': ' if row else ''}{verdict.check}: {mark}. {verdict.details}"
    print("".join(c if c.isprintable() else "?" for c in line), flush=True)
