import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hetpure.config import PROJECT_ROOT
from hetpure.errors import ConfigError, RunError
from hetpure.evaluation import process_monitor
from hetpure.evaluation.process_monitor import ProcessMonitor
from hetpure.evaluation.strategy import LAUNCHER


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_monitor, "PATIENCE", 0.5)
    monkeypatch.setattr(process_monitor, "INTERVAL", 0.05)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Stopped:
    """Whether a monitor's tick raises."""

    def __init__(self, monitor: ProcessMonitor) -> None:
        self.monitor = monitor
        self.error: BaseException | None = None

    def __call__(self) -> bool:
        try:
            self.monitor.tick()
        except RunError as error:
            self.error = error
        return self.error is not None


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with ProcessMonitor(tmp_path), pytest.raises(RunError, match="another run is at work"):
        ProcessMonitor(tmp_path).__enter__()
    with ProcessMonitor(tmp_path):
        pass


@pytest.mark.parametrize(("world", "starts_others"), [(1, False), (2, True)])
def test_a_run_waits_for_the_last_process_of_the_one_before(tmp_path: Path, world: int, starts_others: bool) -> None:
    """For those beyond its own number, and, where it starts the others itself, for all."""
    with ProcessMonitor(tmp_path, 1, 2), pytest.raises(RunError, match="another run is at work"):
        ProcessMonitor(tmp_path, 0, world, starts_others).__enter__()
    at_work = threading.Event()

    def end_soon() -> None:
        with ProcessMonitor(tmp_path, 1, 2, starts_others=False):
            at_work.set()
            time.sleep(0.2)

    threading.Thread(target=end_soon).start()
    assert at_work.wait(10)
    with ProcessMonitor(tmp_path, 0, world, starts_others):
        pass


def test_processes_that_are_started_together_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with ProcessMonitor(tmp_path, 1, 2, starts_others=False), ProcessMonitor(tmp_path, 0, 2, starts_others=False):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "processes").touch()
    with pytest.raises(RunError, match="processes cannot be written"):
        ProcessMonitor(tmp_path).__enter__()
    with pytest.raises(ConfigError, match=r"processes', is no folder"):
        ProcessMonitor(tmp_path / "processes").__enter__()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_a_process_that_is_stopped_stops_the_others(tmp_path: Path, error: BaseException) -> None:
    first = ProcessMonitor(tmp_path, 0, 2, starts_others=False)
    with first:
        with pytest.raises(type(error)), ProcessMonitor(tmp_path, 1, 2, starts_others=False):
            raise error
        until(stopped := Stopped(first))
    assert re.match(r"process 2 of 2 \(host .*, pid \d+\) was stopped; finished work is kept", str(stopped.error))


def test_how_an_earlier_run_ended_does_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), ProcessMonitor(tmp_path, 1, 2):
        raise KeyboardInterrupt
    with ProcessMonitor(tmp_path, 0, 2) as first:
        file = (tmp_path / "processes" / "process-001.txt").open()
        process_monitor._try_lock(file, process_monitor.fcntl.LOCK_EX)  # its successor, before it has written a word
        time.sleep(0.3)
        first.tick()
        file.close()
        time.sleep(0.3)
        first.tick()
    assert capsys.readouterr().err == ""


def test_a_process_that_fails_is_reported_once_and_stops_nobody(tmp_path: Path, capsys) -> None:
    with ProcessMonitor(tmp_path, 0, 2, starts_others=False) as first:
        with pytest.raises(ValueError), ProcessMonitor(tmp_path, 1, 2, starts_others=False):
            raise ValueError("two\nlines")
        time.sleep(0.5)
        first.tick()
        with ProcessMonitor(tmp_path, 1, 2, starts_others=False):
            time.sleep(0.3)
        time.sleep(0.3)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"process 2 of 2 \(.*\) ended with ValueError: two lines; the others evaluate its samples", line)


OTHER = """
import sys, time
from pathlib import Path
from hetpure.evaluation import process_monitor
process_monitor.INTERVAL = 0.05
with process_monitor.ProcessMonitor(Path(sys.argv[1]), 1, 2, starts_others=False) as monitor:
    print("ready", flush=True)
    time.sleep(60)
"""


PARENT = f"""
import os, subprocess, sys
os.environ[{LAUNCHER!r}] = str(os.getpid())
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""


def other(folder: Path) -> subprocess.Popen[str]:
    """The second of two processes, in one of its own."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_process_that_is_killed_is_reported_and_stops_nobody(tmp_path: Path, capsys) -> None:
    second = other(tmp_path)
    with ProcessMonitor(tmp_path, 0, 2, starts_others=False) as first:
        time.sleep(0.3)
        assert capsys.readouterr().err == ""
        second.kill()
        second.wait()
        time.sleep(0.5)
        first.tick()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"pid {second.pid}) has died: killed, or out of memory; the others evaluate its samples")


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Also one whose parent ended before it was at work."""
    command = [sys.executable, "-c", PARENT, OTHER, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    with pytest.raises(RunError, match="another run"):
        ProcessMonitor(tmp_path, 0, 2).__enter__()
    parent.kill()
    assert parent.communicate(timeout=20) == ("", None), "its pipe closes when the child is gone, too"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setenv(LAUNCHER, str(os.getpid()))
        ProcessMonitor(tmp_path, 0, 2).__enter__()
    assert caught.value.code == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_are_raised_and_raised_again_where_python_drops_them(
    tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    class Deaf:
        """The signal arrives in its finaliser, where Python drops the exception."""

        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    before, heard = signal.getsignal(signal.SIGINT), False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error), ProcessMonitor(tmp_path):
            os.kill(os.getpid(), number)
            time.sleep(5)
            pytest.fail("not heard")
        with pytest.raises(error), ProcessMonitor(tmp_path) as monitor:
            Deaf()
            heard = True
            monitor.tick()
        assert heard, "it was dropped first"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_whose_network_calls_stop_ends_with_the_reason(tmp_path: Path, monkeypatch, capfd) -> None:
    codes, reasons = list[int](), list[str]()
    monkeypatch.setattr(process_monitor.os, "_exit", codes.append)
    with ProcessMonitor(tmp_path, hang=0.3, on_hang=reasons.append) as monitor:
        time.sleep(0.5)
        assert not codes, "no call is due yet"
        monitor.tick()
        monitor.pause()
        time.sleep(0.5)
        assert not codes, "nor after the last one"
        for _ in range(10):
            monitor.tick()
            time.sleep(0.05)
        assert not codes
        until(lambda: codes)
        assert "has hung" in (tmp_path / "processes" / "process-000.txt").read_text()
    assert codes == [3] and reasons == ["process 1 of 1 has hung: no network call for 0.005 minutes"]
    assert "test_process_monitor.py" in capfd.readouterr().err, "where it hangs"


def test_waiting_for_others_ends_where_none_shows_a_sign_of_life(tmp_path: Path) -> None:
    """As on another machine, whose locks may not be seen."""
    with ProcessMonitor(tmp_path, 0, 2, starts_others=False, hang=0.5) as first:
        with ProcessMonitor(tmp_path, 1, 2, starts_others=False) as second:
            for _ in range(16):
                second.tick()
                first.wait()
        with pytest.raises(RunError, match=r"no other process has shown a sign of life for 0\.00833 minutes; finished"):
            for _ in range(40):
                first.wait()
