"""The ``hetpure`` command: one module a subcommand, imported when it is asked for.

A subcommand's module has a docstring (its help), ``add_arguments(parser)`` and ``run(options)``, which may return an
exit code. Both import nothing heavy at the top: help and mistakes in names are answered before torch is imported.
"""

import argparse
import difflib
import errno
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hetpure import __version__
from hetpure.errors import BAD_INPUT, INTERRUPTED, STOPPED, ConfigError, RunError, require, shorten

# Threads that spin long while they wait cost a shared machine dearly: two processes on two cores ran 25 times slower.
# Threads that never spin cost small networks half their speed. GNU OpenMP reads this when torch is first imported,
# which every command does after this module.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_fonts_elsewhere() -> None:
    """Puts matplotlib's list of fonts into the folder for temporary files, not into the home directory.

    It stays there for the next command: making it takes a while. Where the user has chosen a folder, or has used
    matplotlib before, its place is matplotlib's own.
    """
    import tempfile  # here, where Ctrl-C is heard: it takes a while

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
    "figures": "draw the paper's figures, and others, from a run",
    "masks": "draw a sheet of attention masks",
    "aggregate": "mean and standard deviation over runs with different seeds",
    "convert": "convert another project's checkpoint",
    "workspace": "lay out a Weights & Biases workspace",
    "plugins": "list purifiers, attacks, objectives and formats with their keys, also those of installed packages",
    "check": "check a purifier of your own",
    "configs": "list the configs that are included",
}


INTERRUPTED_LINE = "\ninterrupted: finished work is kept; run the same command again to continue"


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``hetpure`` command, with ``sys.argv`` by default; returns ``run_command``'s exit code."""
    return _exit_code(_main, sys.argv[1:] if arguments is None else arguments)


def run_command(name: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a subcommand of ``COMMANDS``, with ``sys.argv`` by default; help calls it ``prog``.

    Returns:
        Exit code: 0, 2 for bad input and 3 for a run that cannot go on (one line on stderr), 4 for a claim that does
        not hold (``verify``), 130 after Ctrl-C.
    """
    return _exit_code(_run, name, sys.argv[1:] if arguments is None else arguments, prog)


def begin_work() -> None:
    """Called by a command that saves its work when it is interrupted: from now on Ctrl-C raises KeyboardInterrupt.

    An evaluation has a handler of its own (``ProcessMonitor``).
    """
    if signal.getsignal(signal.SIGINT) is _on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_code(command: Callable[..., int | None], *arguments: Any) -> int:
    try:
        with _interrupted_imports():
            return command(*arguments) or 0
    except (ConfigError, RunError) as error:
        print(f"error: {error if isinstance(error, ConfigError) else shorten(str(error))}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, ConfigError) else STOPPED
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # such as `hetpure configs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # such as a path that is too long
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {shorten(message)}", file=sys.stderr)
        return BAD_INPUT if error.errno == errno.ENAMETOOLONG else STOPPED
    return 0


def _main(arguments: Sequence[str]) -> int:
    width = max(map(len, COMMANDS)) + 2
    parser = _Parser(
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
        raise ConfigError(name, f"is no command; did you mean {', '.join(close)}?")
    return _run(name, arguments[1:], f"hetpure {name}")


def _run(name: str, arguments: Sequence[str], prog: str | None) -> int:
    keep_fonts_elsewhere()  # before anything imports matplotlib
    command = importlib.import_module(f"hetpure.cli.{name.replace('-', '_')}")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=prog, description=command.__doc__, formatter_class=formatter)
    command.add_arguments(parser)
    options = _parse(parser, arguments)
    # Libraries' advice on things the project decided (no workers for in-memory data, say) would bury its own lines.
    # Importing Lightning sets the level of ``lightning.pytorch``, hence those of the loggers below it.
    for package in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{package}.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    return command.run(options) or 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        key, _, problem = message.removeprefix("argument ").partition(": ")
        raise ConfigError(key, problem)


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with ``~`` at the start of a path replaced also where no shell does it (``--output=~/x``)."""
    from hetpure.config import expand_home
    from hetpure.config.schema import is_utf8

    options = parser.parse_intermixed_args(arguments)
    for name, value in vars(options).items():
        parts = value if isinstance(value, list) else [value]
        for text in map(str, parts):
            is_name = is_utf8(text) or name == "pictures"  # those may be called anything
            require(is_name and "\0" not in text, "argument", text, "UTF-8 text without NUL")
        parts = [expand_home(part) if isinstance(part, Path) else part for part in parts]
        setattr(options, name, parts if isinstance(value, list) else parts[0])
    return options


@contextmanager
def _interrupted_imports() -> Iterator[None]:
    """Lets Ctrl-C end the process at once while it imports: libraries drop a KeyboardInterrupt, or turn it into others.

    Likewise in a finaliser, where Python itself drops it. Nothing has been written by then; see ``begin_work``.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        yield
    finally:
        begin_work()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    caller = frame
    while caller is not None and caller.f_code is not _exit_code.__code__:
        if caller.f_code.co_filename.startswith("<frozen importlib") or caller.f_code.co_name == "__del__":
            os.write(2, f"{INTERRUPTED_LINE}\n".encode())
            os._exit(INTERRUPTED)
        caller = caller.f_back
    signal.default_int_handler(number, frame)


_on_interrupt.until_work_begins = True  # pyright: ignore[reportFunctionMemberAccess]
