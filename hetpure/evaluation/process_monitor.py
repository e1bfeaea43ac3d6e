"""This process among those of a run, which share its folder and nothing else: locks, signals, hanging networks.

Each process holds a lock on a file in the folder ``processes/`` as long as it lives. The lock keeps a second run out
and makes a restarted run wait for the last process of the run before it.

A process that dies holds nobody up: the others evaluate its samples (``SampleQueue``). Where a process that this one
has started is stopped by Ctrl-C or SIGTERM, this one stops as well, and a process ends with the one that has started
it; torchrun and SLURM do the same for theirs. A process that hangs ends itself: every network call is a sign of life,
and a thread watches that they keep coming.
"""

import contextlib
import faulthandler
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self

import lightning
from tqdm import tqdm

from hetpure.errors import STOPPED, ConfigError, RunError
from hetpure.evaluation.strategy import is_orphan, started_processes, starts_processes

PATIENCE = 60.0
"""Seconds that a run waits for the processes of the run before it."""

INTERVAL = 1.0
"""Seconds between two looks at other processes."""

EXIT_CODES_OF_SIGNALS = (130, -signal.SIGINT, 143, -signal.SIGTERM)
"""Of a process that Ctrl-C or SIGTERM has stopped."""

GOES_ON = "finished work is kept; run the same command again to continue"


class ProcessMonitor:
    """A context in which this process is at work in a run's folder. Before it is entered, it watches nothing.

    Args:
        output: the run's folder.
        trainer: says which process this is, and has the others that it started.
        hang: seconds without a network call after which this process is taken for hung; 0 never.
        on_hang: called with the reason, from a thread of its own, before this process ends because it hangs.

    Raises:
        ConfigError: on entering, where the output is no folder.
        RunError: likewise, where another run is at work in it, or it cannot be written.
    """

    def __init__(
        self, output: Path, trainer: lightning.Trainer, hang: float = 0.0, on_hang: Callable[[str], None] = print
    ) -> None:
        self.folder, self.trainer, self.hang, self.on_hang = output / "processes", trainer, hang, on_hang
        self.file = self.folder / f"process-{trainer.global_rank:03d}.txt"
        self._last_call: float | None = None
        self._stop: BaseException | None = None
        self._exited = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._sign, self._sign_time = 0.0, time.monotonic()

    def tick(self, *_: Any) -> None:
        """This process's work goes on; serves as a hook of its networks.

        Raises:
            KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM. Python drops an exception that a signal raises
                inside a finaliser, so it is raised again here.
            RunError: where a process that this one has started was stopped.
        """
        self._last_call = time.monotonic()
        if self._stop is not None:
            raise self._stop

    def pause(self) -> None:
        """No network call is due for now."""
        self._last_call = None

    def wait(self) -> None:
        """Sleeps while other processes work; RunError where none shows a sign of life for ``hang`` seconds."""
        self.tick()
        self.pause()
        sign = max((file.stat().st_mtime for file in self._others()), default=0.0)
        if sign != self._sign:
            self._sign, self._sign_time = sign, time.monotonic()
        elif self.hang and time.monotonic() - self._sign_time > self.hang:
            silence = f"no other process has shown a sign of life for {self.hang / 60:.3g} minutes"
            raise RunError(f"samples are missing and {silence}; {GOES_ON}")
        time.sleep(INTERVAL)

    def __enter__(self) -> Self:
        if is_orphan():
            raise SystemExit(STOPPED)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self.file.open("a")
            deadline = time.monotonic() + PATIENCE
            while not _lock(self._lock) or self._earlier_run_is_at_work():
                if time.monotonic() > deadline:
                    self._lock.close()
                    raise RunError(f"output: another run is at work in {self.folder.parent}, see {self.folder}")
                time.sleep(0.2)
            self.file.write_text(f"{socket.gethostname()} {os.getpid()}\n")
        except NotADirectoryError:
            raise ConfigError("output", "is no folder", found=str(self.folder.parent)) from None
        except OSError as error:
            raise RunError(f"output: {self.folder} cannot be written: {error.strerror}") from None
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                current = signal.getsignal(number)
                if current == default or getattr(current, "until_work_begins", False):
                    self._handlers[number] = signal.signal(number, self._on_signal)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        threading.Thread(target=self._watch, name="process-monitor", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._exited.set()
        sys.unraisablehook = self._unraisable
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        raise self._stop

    def _on_unraisable(self, dropped: Any) -> None:
        """Python says that it drops an exception; one that ``tick`` raises again is no news."""
        if self._stop is None or not isinstance(dropped.exc_value, type(self._stop)):
            self._unraisable(dropped)

    def _watch(self) -> None:
        last_call, ended = None, set()
        while not self._exited.wait(INTERVAL):
            if is_orphan():
                os._exit(STOPPED)
            for name, code in started_processes(self.trainer):
                if code and name not in ended and self._stop is None:
                    ended.add(name)
                    if code in EXIT_CODES_OF_SIGNALS:
                        self._stop = RunError(f"{name} was stopped; {GOES_ON}")
                    else:
                        tqdm.write(f"{name} ended with code {code}; the others evaluate its samples", file=sys.stderr)
            if self._last_call != last_call:
                last_call = self._last_call
                with contextlib.suppress(OSError):
                    os.utime(self.file)  # the sign of life that ``wait`` looks for
            if self.hang and last_call is not None and time.monotonic() - last_call > self.hang:
                return self._end_hung()

    def _end_hung(self) -> None:
        with contextlib.suppress(Exception):  # a standard error that is no file
            faulthandler.dump_traceback(sys.stderr)  # where it hangs
        name = f"process {self.trainer.global_rank + 1} of {self.trainer.world_size}"
        try:
            self.on_hang(f"{name} has hung: no network call for {self.hang / 60:.3g} minutes")
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(STOPPED)

    def _others(self) -> list[Path]:
        files = (file for file in self.folder.glob("process-*.txt") if file.stem[8:].isdecimal() and file.is_file())
        return [file for file in files if file != self.file]

    def _earlier_run_is_at_work(self) -> bool:
        for file in self._others():
            rank = int(file.stem.removeprefix("process-"))
            if starts_processes(self.trainer) or rank >= self.trainer.world_size:
                with file.open() as handle:
                    if not _lock(handle):
                        return True
        return False


def _lock(file: IO[Any]) -> bool:
    """Locks a file; False where another process has. A file system without locks never says so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
