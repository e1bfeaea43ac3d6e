"""The processes of a run, which share its folder and nothing else: who is at work there, who has stopped, who hangs.

Each process holds a lock on a file in the folder ``processes/`` as long as it lives. The lock keeps a second run out
and makes a restarted run wait for the last process of the run before it.

A process that dies holds nobody up: the others evaluate its samples (``SampleQueue``). A process that is stopped by
Ctrl-C or SIGTERM says so in its file, and the others stop as well. A process that hangs ends itself: every network call
is a sign of life, and a thread watches that they keep coming.
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
from types import FrameType, TracebackType
from typing import IO, Any, Self

from tqdm import tqdm

from hetpure.errors import STOPPED, ConfigError, RunError
from hetpure.evaluation.strategy import LAUNCHER

PATIENCE = 60.0
"""Seconds that a run waits for the processes of the run before it."""

INTERVAL = 1.0
"""Seconds between two looks at the other processes."""

GOES_ON = "finished work is kept; run the same command again to continue"


class ProcessMonitor:
    """This process among those of a run. A context: before it is entered, it watches nothing.

    Args:
        output: the run's folder.
        rank: of this process.
        world: how many processes there are.
        starts_others: whether this process starts the others, so that none of them can be at work yet.
        hang: seconds without a network call after which a process is taken for hung; 0 never.
        on_hang: called with the reason, from a thread of its own, before this process ends because it hangs.

    Raises:
        ConfigError: on entering, where the output is no folder.
        RunError: likewise, where another run is at work in it, or it cannot be written.
    """

    def __init__(
        self,
        output: Path,
        rank: int = 0,
        world: int = 1,
        starts_others: bool = True,
        hang: float = 0.0,
        on_hang: Callable[[str], None] = print,
    ) -> None:
        self.folder = output / "processes"
        self.rank, self.world, self.starts_others = rank, world, starts_others
        self.hang, self.on_hang = hang, on_hang
        self._last_call: float | None = None
        self._stop: BaseException | None = None
        self._exited = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._old_texts: dict[int, str] = {}  # what was in the other processes' files when this one began
        self._present: set[int] = set()
        self._judged: set[str] = set()
        self._sign, self._sign_time = 0.0, time.monotonic()

    def tick(self, *_: Any) -> None:
        """This process's work goes on; serves as a hook of its networks.

        Raises:
            KeyboardInterrupt: after Ctrl-C. Python drops an exception that a signal raises inside a finaliser, so it is
                raised again here.
            SystemExit: after SIGTERM, likewise.
            RunError: where another process was stopped.
        """
        self._last_call = time.monotonic()
        if self._stop is not None:
            raise self._stop

    def pause(self) -> None:
        """No network call is due for now."""
        self._last_call = None

    def wait(self) -> None:
        """Sleeps for a moment while other processes work.

        Raises:
            RunError: where none of them has shown a sign of life for ``hang`` seconds; and as ``tick`` does.
        """
        self.tick()
        self.pause()
        files = [self._file(rank) for rank in self._old_texts]
        sign = sum(file.stat().st_mtime for file in files if file.exists())
        if sign != self._sign:
            self._sign, self._sign_time = sign, time.monotonic()
        elif self.hang and time.monotonic() - self._sign_time > self.hang:
            silence = f"no other process has shown a sign of life for {self.hang / 60:.3g} minutes"
            raise RunError(f"samples are missing and {silence}; {GOES_ON}")
        time.sleep(INTERVAL)

    def __enter__(self) -> Self:
        if _is_orphan():
            raise SystemExit(STOPPED)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = os.fdopen(os.open(self._file(self.rank), os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            deadline = time.monotonic() + PATIENCE
            while _try_lock(self._own, fcntl.LOCK_EX) is False or self._earlier_run_is_at_work():
                if time.monotonic() > deadline:
                    self._own.close()
                    raise RunError(f"output: another run is at work in {self.folder.parent}, see {self.folder}")
                time.sleep(0.2)
            self._write("working")
        except NotADirectoryError:
            raise ConfigError("output", "is no folder", found=str(self.folder.parent)) from None
        except OSError as error:
            raise RunError(f"output: {self.folder} cannot be written: {error.strerror}") from None
        self._old_texts = {rank: self._look_at(rank)[0] for rank in range(self.world) if rank != self.rank}
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == default:
                    self._handlers[number] = signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="process-monitor", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exited.set()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if error is None:
            self._write("done")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self._write("was stopped")
        else:
            self._write(f"ended with {type(error).__name__}: {error}")
        self._own.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        raise self._stop

    def _watch(self) -> None:
        last_call = None
        while not self._exited.wait(INTERVAL):
            if _is_orphan():
                os._exit(STOPPED)
            with contextlib.suppress(OSError):
                if self._last_call != last_call:
                    last_call = self._last_call
                    os.utime(self._file(self.rank))  # the sign of life that ``wait`` looks for
                for rank in self._old_texts:
                    self._judge(rank)
            if self.hang and last_call is not None and time.monotonic() - last_call > self.hang:
                return self._end(f"has hung: no network call for {self.hang / 60:.3g} minutes")

    def _judge(self, rank: int) -> None:
        """Notes whether another process was stopped; on the first process, prints how it ended otherwise."""
        text, locked = self._look_at(rank)
        if locked or text != self._old_texts[rank]:
            self._present.add(rank)
        if rank not in self._present or text in self._judged:
            return
        host, pid, _, state = (text.split("\t") + [""] * 3)[:4]
        if state == "working":
            if locked is not False or host != socket.gethostname():  # locks may not reach other machines
                return
            state = "has died: killed, or out of memory"
        elif text == self._old_texts[rank]:
            return
        self._judged.add(text)
        name = f"process {rank + 1} of {self.world} (host {host}, pid {pid})"
        if state == "was stopped":
            self._stop = RunError(f"{name} {state}; {GOES_ON}")
        elif state != "done" and self.rank == 0:
            tqdm.write(f"{name} {state}; the others evaluate its samples", file=sys.stderr)

    def _end(self, state: str) -> None:
        """Ends this process from the watching thread."""
        with contextlib.suppress(Exception):  # a standard error that is no file
            faulthandler.dump_traceback(sys.stderr)  # where it hangs
        self._write(state)
        try:
            self.on_hang(f"process {self.rank + 1} of {self.world} {state}")
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(STOPPED)

    def _earlier_run_is_at_work(self) -> bool:
        ranks = {int(file.stem.removeprefix("process-")) for file in self.folder.glob("process-*.txt")} - {self.rank}
        return any(self._look_at(rank)[1] for rank in ranks if self.starts_others or rank >= self.world)

    def _look_at(self, rank: int) -> tuple[str, bool | None]:
        """What a process has written, and whether it lives; None where locks do not tell."""
        try:
            with self._file(rank).open() as file:
                unlocked = _try_lock(file, fcntl.LOCK_SH)
                return file.read().rstrip(), None if unlocked is None else not unlocked
        except OSError:
            return "", None

    def _file(self, rank: int) -> Path:
        return self.folder / f"process-{rank:03d}.txt"

    def _write(self, state: str) -> None:
        text = f"{socket.gethostname()}\t{os.getpid()}\t{time.time():.0f}\t{' '.join(state.split())[:500]}"
        with contextlib.suppress(OSError):  # on a full disk others notice by the lock
            os.pwrite(self._own.fileno(), text.encode().ljust(1023) + b"\n", 0)  # in one piece


def _is_orphan() -> bool:
    """Whether the process that started this one has ended."""
    return int(os.environ.get(LAUNCHER, os.getppid())) != os.getppid()


def _try_lock(file: IO[Any], kind: int) -> bool | None:
    """Locks a file; False where another process has, None on a file system without locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
