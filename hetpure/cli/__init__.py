"""The ``hetpure`` command: one module a subcommand, imported when it is asked for.

A subcommand's module has a docstring (its help), ``add_arguments(parser)`` and ``run(options)``, which may return an
exit code. Both import nothing heavy at the top: help and mistakes in names are answered before torch is imported.
"""

import argparse
import difflib
import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hetpure import __version__
from hetpure.errors import BAD_INPUT, INTERRUPTED, STOPPED, ConfigError, RunError

# Threads that spin long while they wait cost a shared machine dearly: two processes on two cores ran 25 times slower.
# Threads that never spin cost small networks half their speed. GNU OpenMP reads this when torch is first imported,
# which every command does after this module.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_fonts_elsewhere() -> None:
    """Puts matplotlib's list of fonts into the folder for temporary files, not into the home directory.

    It stays there for the next command: making it takes a while. Where the user has chosen a folder, or has used
    matplotlib before, its place is matplotlib's own.
    """
    config, cache = (os.environ.get(f"XDG_{kind}_HOME") or f"~/.{kind.lower()}" for kind in ("CONFIG", "CACHE"))
    used = (f"{config}/matplotlib", f"{cache}/matplotlib", "~/.matplotlib")
    folder = Path(tempfile.gettempdir(), f"hetpure-matplotlib-{os.getuid()}")
    with suppress(OSError, RuntimeError):  # such as no home directory at all
        if "MPLCONFIGDIR" in os.environ or any(Path(place).expanduser().is_dir() for place in used):
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():  # its parent is everybody's
            os.environ["MPLCONFIGDIR"] = str(folder)


COMMANDS = {
    "evaluate": "evaluate purifiers under adaptive attacks",
    "plan": "estimate an evaluation's time, memory and network calls",
    "train-diffusion": "train a denoiser",
    "train-classifier": "train a classifier",
    "purify": "clean pictures, with the classifier's opinion before and after",
    "report": "write a run's tables and page again, or plot accuracy over a key",
    "verify": "check the claims of a run that somebody hands in",
    "leaderboard": "write a static site that compares runs",
    "figures": "draw the paper's figures from a run",
    "masks": "draw a sheet of attention masks",
    "aggregate": "mean and standard deviation over runs with different seeds",
    "convert": "convert another project's checkpoint",
    "workspace": "lay out a Weights & Biases workspace",
    "plugins": "list purifiers, attacks and formats with their keys, also those of installed packages",
    "check": "check a purifier of your own",
    "configs": "list the configs that are included",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``hetpure`` command, with ``sys.argv`` by default; returns ``run_command``'s exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="hetpure",
        description="Diffusion-based adversarial purification, evaluated under adaptive attacks.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}{about}" for name, about in COMMANDS.items())
        + "\n\nhetpure COMMAND --help explains one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hetpure {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those below; its own arguments follow")
    name = parser.parse_args(arguments[:1]).command
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1) or COMMANDS
        print(f"error: {name!r} is no command; did you mean {', '.join(close)}?", file=sys.stderr)
        return BAD_INPUT
    return run_command(name, arguments[1:], f"hetpure {name}")


def run_command(name: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a subcommand of ``COMMANDS``, with ``sys.argv`` by default; help calls it ``prog``.

    Returns:
        Exit code: 0, 2 for bad input and 3 for a run that cannot go on (one line on stderr), 4 for a claim that does
        not hold (``verify``), 130 after Ctrl-C.
    """
    keep_fonts_elsewhere()  # before anything imports matplotlib
    command = importlib.import_module(f"hetpure.cli.{name.replace('-', '_')}")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=command.__doc__, formatter_class=formatter)
    command.add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    # Libraries' advice on things the project decided (no workers for in-memory data, say) would bury its own lines.
    # Importing Lightning sets the level of ``lightning.pytorch``, hence those of the loggers below it.
    for package in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{package}.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    try:
        return command.run(options) or 0
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, ConfigError) else STOPPED
    except KeyboardInterrupt:
        print("\ninterrupted: finished work is kept; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # such as `hetpure configs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
