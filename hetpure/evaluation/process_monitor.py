"""Processes that watch each other: where one dies, the others end within a minute and say why.

A collective waits for a dead process for ever, and launchers differ in what they do about it. So each process keeps a
file in the run's folder: it holds a lock on it, changes a number in it every second, and writes there how it ended. All
processes must see the run's folder anyway. On one machine a free lock says at once that its holder is gone, however it
died; across machines, where locks may not reach, a number that stands still for ``PATIENCE`` seconds does.

A process that hangs but lives finds itself out: its work says that it moves, and where it has not for longer than any
call can take, the thread that gives the signs of life ends the process and says so.

The lock also keeps a second run out of the folder, and makes a restarted one wait until the last process of the run
before it is gone.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from hetpure.errors import RunError

try:
    import fcntl
except ImportError:  # not a POSIX system: numbers alone
    fcntl = None

PATIENCE = 30.0
"""Seconds without a sign of life after which a process is taken for dead."""

STARTUP = 600.0
"""Seconds in which every process must have appeared."""

BEAT = 1.0
"""Seconds between two signs of life, and between two looks at the others'."""

WIDTH = 1024
"""Bytes of a process's file."""

GRACE = 2.0
"""Seconds that a process is given to end by itself, as after a Ctrl-C that reached all."""

FAILED = 3
"""Exit code of a process that ends because of another."""


class Watch:
    """This process's sign of life, and its eye on the others'.

    Args:
        folder: the run's.
        rank: of this process.
        world: how many there are.
        on_loss: called with the reason, from a thread of its own, before the process ends because of another. Only the
            lowest process that is left is asked.
        hang: seconds between two movements of this process's work after which it is taken for hung; 0 never.

    Raises:
        RunError: from ``start``, where another run is at work in the folder.
    """

    def __init__(self, folder: Path, rank: int, world: int, on_loss: Callable[[str], None], hang: float = 0.0) -> None:
        self.folder = folder / "processes"
        self.rank, self.world, self.on_loss, self.hang = rank, world, on_loss, hang
        self._moved: float | None = None
        self._host = _machine()
        self._own: IO[bytes] | None = None
        self._state = "working"
        self._beats = 0
        self._mutex = threading.Lock()
        self._began = time.monotonic()
        self._last: dict[int, tuple[str, float]] = {}
        self._alive: set[int] = set()

    def start(self, patience: float = 2 * PATIENCE) -> "Watch":
        """Takes this process's place, waiting for the last process of an earlier run to end, and begins to watch."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            deadline = time.monotonic() + patience
            self._own = os.fdopen(os.open(self._file(self.rank), os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            while not (self._free_beyond() and self._lock(self._own)):
                if time.monotonic() > deadline:
                    self._own.close()
                    raise RunError(f"output: another run is at work in {self.folder.parent}, see {self.folder}")
                time.sleep(0.2)
        except OSError as error:
            raise RunError(f"output: {self.folder} cannot be written: {error.strerror}") from None
        for other in self._others():
            # What stands there now is an earlier run's: only a change is a sign of life.
            self._last[other] = (self._text(other), self._began)
        self._lost()  # who holds a lock is there already, and may be gone before the first look
        self._beat()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return self

    def leave(self, state: str = "done") -> None:
        """Stops watching and writes how this process ended: ``done``, or the reason."""
        with self._mutex:
            self._state = state
        self._beat()
        if self._own is not None:
            own, self._own = self._own, None
            own.close()

    def moved(self) -> None:
        """This process's work goes on: from now on the next movement is awaited."""
        self._moved = time.monotonic()

    def rest(self) -> None:
        """No movement is awaited: this process waits for others, or is done."""
        self._moved = None

    def reason(self, error: BaseException) -> str | None:
        """Which other process an error is due to; None where none is known to have ended.

        A collective fails at once where another process died, and the watch may be later to know.
        """
        if not isinstance(error, RuntimeError) or isinstance(error, RunError):
            return None
        of_collective = any(word in str(error).lower() for word in ("peer", "connection", "nccl"))
        deadline = time.monotonic() + (PATIENCE + 5.0 if of_collective else 1.0)
        while self.world > 1 and time.monotonic() < deadline:
            lost = self._lost()
            if lost is not None:
                return f"{lost}; what was finished is kept, the same command goes on from there"
            time.sleep(0.2)
        if self.world > 1 and of_collective:
            return f"the processes lost each other: {' '.join(str(error).split())[:200]}"
        return None

    def _watch(self) -> None:
        while True:
            time.sleep(BEAT)
            self._beat()
            lost = self._lost()
            if lost is not None:
                time.sleep(GRACE)
                lost = self._lost()  # a place may have been between an earlier run's process and this one's
            hung = self._hung()
            with self._mutex:
                if self._state != "working":
                    return  # this process is ending by itself
                if lost is not None:
                    self._state = f"ended because of another: {lost}"
                elif hung is not None:
                    self._state = hung
                else:
                    continue
            self._beat()
            self._end(lost or f"process {self.rank + 1} of {self.world} {hung}")

    def _hung(self) -> str | None:
        """Since when this process's work has stood still, if that is too long."""
        moved = self._moved
        if not self.hang or moved is None or time.monotonic() - moved <= self.hang:
            return None
        with contextlib.suppress(Exception):  # a standard error that is no file
            faulthandler.dump_traceback(sys.stderr)  # where it hangs
        return f"has hung: no network call, iteration or batch has begun for {self.hang / 60:.3g} minutes"

    def _end(self, reason: str) -> None:
        try:
            if all(other > self.rank for other in self._alive - self._gone()):
                self.on_loss(reason)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            # The main thread may be in a collective that never returns. Records are safe at any instant.
            os._exit(FAILED)

    def _lost(self) -> str | None:
        """Why the run is over, if a process has ended before its work was done."""
        now = time.monotonic()
        for other in self._others():
            text = self._text(other)
            seen, since = self._last[other]
            host, _, number, state = (*text.split("\t", 3), "", "", "", "")[:4]
            near = host == self._host and fcntl is not None
            if text != seen:
                self._last[other] = (text, now)
            if text != seen or (near and not self._is_free(other)):
                self._alive.add(other)
                if len(self._alive) == self.world - 1:
                    _silence_observer()
            who = f"process {other + 1} of {self.world} (host {host or '?'}, pid {number or '?'})"
            if other not in self._alive:
                if now - self._began > STARTUP:
                    return f"process {other + 1} of {self.world} did not appear within {STARTUP / 60:.0f} minutes"
            elif state == "done":
                continue
            elif state and state != "working":
                return f"{who}: {state}"
            elif near and self._is_free(other):
                return f"{who} ended without a word: killed, or out of memory"
            elif now - since > PATIENCE and text == seen:
                return f"{who} has shown no sign of life for {PATIENCE:.0f} seconds"
        return None

    def _gone(self) -> set[int]:
        """Processes that have ended, as far as this one can tell."""
        return {other for other in self._alive if not self._text(other).endswith("\tworking") or self._is_free(other)}

    def _others(self) -> list[int]:
        return [rank for rank in range(self.world) if rank != self.rank]

    def _file(self, rank: int) -> Path:
        return self.folder / f"process-{rank:03d}.txt"

    def _text(self, rank: int) -> str:
        try:
            return self._file(rank).read_text().strip()
        except OSError:
            return ""

    def _beat(self) -> None:
        with self._mutex:
            self._beats += 1
            text = f"{self._host}\t{self._began:.3f}.{self._beats}\t{os.getpid()}\t{self._state}"
            if self._own is not None:
                # On a full disk nothing can be said; others notice by the lock or by the silence.
                # In one piece: a kill between a truncation and a write would leave an empty file.
                with contextlib.suppress(OSError):
                    line = " ".join(text.split("\n")).encode()[: WIDTH - 1]
                    os.pwrite(self._own.fileno(), line.ljust(WIDTH - 1) + b"\n", 0)

    def _lock(self, file: IO[Any]) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True

    def _is_free(self, rank: int) -> bool:
        """Whether nobody holds a process's lock, where that can be told."""
        if fcntl is None:
            return False
        try:
            with self._file(rank).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
        except OSError:
            return False

    def _free_beyond(self) -> bool:
        """Whether no process of an earlier, larger run is still at work."""
        files = self.folder.glob("process-*.txt")
        ranks = [int(file.stem.removeprefix("process-")) for file in files]
        held = [rank for rank in ranks if rank >= self.world and fcntl is not None and not self._is_free(rank)]
        return not held


def _machine() -> str:
    """The host's name and which boot of it this is: containers on different machines may share a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        boot = "?"
    return f"{socket.gethostname()}/{boot}"


def _silence_observer() -> None:
    """Lightning's launcher kills this process without a word when one that it started dies: the watch says why."""
    for thread in threading.enumerate():
        if type(thread).__name__ == "_ChildProcessObserver":
            vars(thread)["_child_processes"] = []
