import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def trainer(rank: int = 0, world: int = 1, external: bool = False, children: Sequence[Any] = ()) -> Any:
    """What a monitor asks of the Trainer."""
    environment = SimpleNamespace(creates_processes_externally=external)
    strategy = SimpleNamespace(cluster_environment=environment, launcher=SimpleNamespace(procs=list(children)))
    return SimpleNamespace(global_rank=rank, world_size=world, num_nodes=1, strategy=strategy)


def monitor(folder: Path, rank: int = 0, world: int = 1, external: bool = False) -> ProcessMonitor:
    return ProcessMonitor(folder, trainer(rank, world, external))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with monitor(tmp_path), pytest.raises(RunError, match="another run is at work"):
        monitor(tmp_path).__enter__()
    with monitor(tmp_path):
        pass


@pytest.mark.parametrize(("world", "external"), [(1, True), (2, False)])
def test_a_run_waits_for_the_last_process_of_the_one_before(tmp_path: Path, world: int, external: bool) -> None:
    """For those beyond its own number, and, where it starts the others itself, for all."""
    with monitor(tmp_path, 1, 2, external=True), pytest.raises(RunError, match="another run is at work"):
        monitor(tmp_path, 0, world, external).__enter__()
    at_work = threading.Event()

    def end_soon() -> None:
        with monitor(tmp_path, 1, 2, external=True):
            at_work.set()
            time.sleep(0.2)

    threading.Thread(target=end_soon).start()
    assert at_work.wait(10)
    with monitor(tmp_path, 0, world, external):
        pass


def test_processes_that_are_started_together_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with monitor(tmp_path, 1, 2, external=True), monitor(tmp_path, 0, 2, external=True):
        names = {file.name: file.read_text().split() for file in (tmp_path / "processes").iterdir()}
    assert set(names) == {"process-000.txt", "process-001.txt"}
    assert all(words[1] == str(os.getpid()) for words in names.values())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "processes").touch()
    with pytest.raises(RunError, match="processes cannot be written"):
        monitor(tmp_path).__enter__()
    with pytest.raises(ConfigError, match=r"processes', is no folder"):
        monitor(tmp_path / "processes").__enter__()


def child(code: int) -> "subprocess.Popen[bytes]":
    """A process that ends with an exit code, or dies of a signal."""
    return subprocess.Popen(["sh", "-c", f"exit {code}" if code >= 0 else f"kill {code} $$"])


@pytest.mark.parametrize("code", [130, 143, -signal.SIGINT, -signal.SIGTERM])
def test_where_a_process_is_stopped_the_one_that_started_it_stops(tmp_path: Path, code: int) -> None:
    children = [child(0), child(code)]
    with pytest.raises(RunError) as caught, ProcessMonitor(tmp_path, trainer(0, 3, children=children)) as first:
        until(first.tick, 10.0)
    assert re.match(rf"process 3 of 3 \(pid {children[1].pid}\) was stopped; finished work is kept", str(caught.value))


@pytest.mark.parametrize("code", [1, 3, -signal.SIGKILL])
def test_where_a_process_dies_the_one_that_started_it_goes_on(tmp_path: Path, code: int, capsys) -> None:
    children = [child(code), child(0)]
    with ProcessMonitor(tmp_path, trainer(0, 3, children=children)) as first:
        until(lambda: all(process.poll() is not None for process in children))
        time.sleep(0.5)
        first.tick()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"process 2 of 3 (pid {children[0].pid}) ended with code {code}; the others evaluate its samples"


CHILD = """
import sys, time
from pathlib import Path
from hetpure.evaluation import process_monitor
from tests.evaluation.test_process_monitor import monitor
process_monitor.INTERVAL = 0.05
with monitor(Path(sys.argv[1]), 1, 2, external=True):
    print("ready", flush=True)
    time.sleep(60)
"""

PARENT = f"""
import os, subprocess, sys
os.environ[{LAUNCHER!r}] = str(os.getpid())
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose parent ended before it was at work."""
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    with pytest.raises(RunError, match="another run"):
        monitor(tmp_path, 0, 2).__enter__()
    parent.kill()
    assert parent.communicate(timeout=20) == ("", None), "its pipe closes when the child is gone, too"
    monkeypatch.setenv(LAUNCHER, str(os.getpid()))
    with pytest.raises(SystemExit) as caught:
        monitor(tmp_path, 0, 2).__enter__()
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
        with pytest.raises(error), monitor(tmp_path):
            os.kill(os.getpid(), number)
            time.sleep(5)
            pytest.fail("not heard")
        with pytest.raises(error), monitor(tmp_path) as own:
            Deaf()
            heard = True
            own.tick()
        assert heard, "it was dropped first"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_whose_network_calls_stop_ends_with_the_reason(tmp_path: Path, monkeypatch, capfd) -> None:
    codes, reasons = list[int](), list[str]()
    monkeypatch.setattr(process_monitor.os, "_exit", codes.append)
    with ProcessMonitor(tmp_path, trainer(), 0.3, reasons.append) as own:
        time.sleep(0.5)
        assert not codes, "no call is due yet"
        own.tick()
        own.pause()
        time.sleep(0.5)
        assert not codes, "nor after the last one"
        for _ in range(10):
            own.tick()
            time.sleep(0.05)
        assert not codes
        until(lambda: codes)
    assert codes == [3] and reasons == ["process 1 of 1 has hung: no network call for 0.005 minutes"]
    assert "test_process_monitor.py" in capfd.readouterr().err, "where it hangs"


def test_waiting_for_others_ends_where_none_shows_a_sign_of_life(tmp_path: Path) -> None:
    """As on another machine, whose locks may not be seen."""
    with ProcessMonitor(tmp_path, trainer(0, 2, external=True), 0.5) as first:
        with monitor(tmp_path, 1, 2, external=True) as second:
            for _ in range(16):
                second.tick()
                first.wait()
        with pytest.raises(RunError, match=r"no other process has shown a sign of life for 0\.00833 minutes; finished"):
            for _ in range(40):
                first.wait()
