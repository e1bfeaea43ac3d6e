"""Several processes of one evaluation, that die, stop, hang, fail, or have nothing to do."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.evaluation.run import evaluation_trainer
from hetpure.evaluation.strategy import IndependentProcesses, starts_processes
from hetpure.runs.mend import mend
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore
from tests.evaluation import jobs, kills, slow_evaluate

ROWS = {"only": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}
OVERRIDES = (
    "trainer.accelerator=cpu",
    "data.batch_size=2",
    "attack.steps=2",
    "attack.eot=2",
    "ensemble.size=2",
    "chunk_size=4",
)
PROTOCOLS = ("protocols.resubmissions=2",)


def rank(number: int, output: Path, *overrides: str, change: Callable[[], None] | None = None, world: int = 2):
    return jobs.Rank(number, world, output, ROWS, *OVERRIDES, *PROTOCOLS, *overrides, change=change)


def both(output: Path, *overrides: str, second: Callable[[], None] | None = None) -> list[jobs.Rank]:
    """Two slow processes, of which something may happen to the second."""
    changes = (slow_calls, second or slow_calls)
    return [rank(number, output, *overrides, change=change) for number, change in enumerate(changes)]


def outcome(output: Path) -> dict[tuple[int, str], tuple]:
    """What every record says and its image's bits; no sample may stand twice."""
    return kills.records_of(output)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert jobs.evaluate(output, ROWS, *OVERRIDES, *PROTOCOLS, "data.subset=8") == 0
    return output


def slow_calls() -> None:
    """Every denoiser call takes 50 ms more."""
    slow_evaluate.pause_in_calls(0.05)


def failing_calls() -> None:
    """The first batch fails."""
    _in_the_first_batch(_fail)


def hanging_calls() -> None:
    """The first batch hangs."""
    _in_the_first_batch(lambda: time.sleep(600))


def killed() -> None:
    """The process is killed in its first batch."""
    _in_the_first_batch(lambda: os.kill(os.getpid(), signal.SIGKILL))


def _fail() -> None:
    raise ZeroDivisionError("planted")


def _in_the_first_batch(happen: Callable[[], None]) -> None:
    def test_step(self: PurifiedClassifier, batch: Any, batch_idx: int) -> None:
        happen()

    PurifiedClassifier.test_step = test_step


def test_two_processes_share_the_samples(tmp_path: Path, undisturbed: Path) -> None:
    processes = both(tmp_path / "run", "data.subset=8")
    assert [process.join() for process in processes] == [0, 0], [process.printed for process in processes]
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    assert len(list(tmp_path.glob("run/only/samples-*.jsonl"))) == 2
    assert "8 " in processes[0].printed and "results" not in processes[1].printed
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("samples", [1, 8])
def test_more_processes_than_samples(tmp_path: Path, undisturbed: Path, samples: int) -> None:
    """And a run that goes on with none left, and with other numbers of processes."""
    processes = [rank(number, tmp_path / "run", f"data.subset={samples}", world=3) for number in range(3)]
    assert [process.join() for process in processes] == [0, 0, 0], [process.printed for process in processes]
    whole = outcome(undisturbed)
    assert len(found := outcome(tmp_path / "run")) == 2 * samples
    assert all(whole[key] == value for key, value in found.items())
    processes = both(tmp_path / "run", f"data.subset={samples}")
    assert [process.join() for process in processes] == [0, 0]
    assert f"all {samples} images are done already" in processes[0].printed


@pytest.mark.parametrize(
    ("change", "code"),
    [(killed, -signal.SIGKILL), (failing_calls, 3), (hanging_calls, 3)],
    ids=["killed", "failed", "hung"],
)
def test_the_others_do_the_samples_of_a_process_that_is_gone(
    tmp_path: Path, undisturbed: Path, change: Callable[[], None], code: int
) -> None:
    first, second = both(tmp_path / "run", "data.subset=8", "hang_minutes=0.08", second=change)
    assert second.join() == code, second.printed
    if change is hanging_calls:
        assert "error: process 2 of 2 has hung: no network call" in second.printed
        assert "in test_step" in second.printed, "where it hangs"
    assert first.join() == 0, first.printed
    assert outcome(tmp_path / "run") == outcome(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["first", "second"])
def test_sigterm_to_one_process_stops_both_within_seconds(tmp_path: Path, target: str) -> None:
    """Of two that the command has started."""
    first = kills.start(tmp_path / "run", "data.subset=30", *kills.TWO)
    until(lambda: kills.second_of(tmp_path / "run", first.pid) or first.poll() is not None, 300.0)
    assert kills.wait(first, tmp_path / "run", 1), first.communicate()
    second = kills.second_of(tmp_path / "run", first.pid)
    assert second is not None
    start = time.monotonic()
    os.kill(first.pid if target == "first" else second, signal.SIGTERM)
    printed, _ = first.communicate(timeout=60)  # the pipe closes when the second is gone, too
    assert time.monotonic() - start < 30.0
    assert first.returncode == (143 if target == "first" else 3), printed
    if target == "second":
        assert f"error: process 2 of 2 (pid {second}) was stopped; finished work is kept" in printed
    assert "run the same command again to continue" in printed and "Traceback" not in printed
    assert kills.records_of(tmp_path / "run")


def test_each_process_mends_its_own_files_and_those_of_a_larger_run(tmp_path: Path) -> None:
    """While others write theirs."""
    files = []
    for number in range(4):
        store = RecordStore(tmp_path, rank=number)
        store.append([Record(number, "one-shot", 0, [0], [[1.0]])])
        part = tmp_path / "adversarial" / f"000007.samples-{number:03d}.part"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(b"half")
        with store.file.open("a") as file:
            file.write('{"index": 9')
        files.append((store.file, part))
    mend(RecordStore(tmp_path, rank=1), world=2)
    assert [file.read_text().endswith("\n") for file, _ in files] == [False, True, False, True]
    assert [part.exists() for _, part in files] == [True, False, True, True], "only a process's own"
    mend(RecordStore(tmp_path))
    assert [file.read_text().endswith("\n") for file, _ in files] == [True] * 4
    assert not any(part.exists() for _, part in files)


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    first = rank(0, tmp_path / "run", "data.subset=100", change=slow_calls)
    until(lambda: (tmp_path / "run" / "processes" / "process-000.txt").exists())
    (tmp_path / "second").mkdir()
    second = jobs.Rank(0, 1, tmp_path / "run", ROWS, *OVERRIDES, *PROTOCOLS, "data.subset=100", change=impatient)
    try:
        assert second.join() == 3 and "another run is at work in" in second.printed
    finally:
        first.signal(signal.SIGKILL)
        first.join()


def impatient() -> None:
    """Does not wait for the run that is there."""
    from hetpure.evaluation import process_monitor

    process_monitor.PATIENCE = 0.5


# ---- the Trainer


def test_processes_are_independent_however_they_are_asked_for() -> None:
    for settings in ({"devices": 2}, {"strategy": "ddp"}, {"strategy": "ddp", "devices": 3}, {"num_nodes": 2}):
        trainer = evaluation_trainer({"accelerator": "cpu", **settings})
        assert isinstance(trainer.strategy, IndependentProcesses)
        assert starts_processes(trainer) is ("num_nodes" not in settings)
    trainer = evaluation_trainer({"accelerator": "cpu"})
    assert not isinstance(trainer.strategy, IndependentProcesses) and starts_processes(trainer)


def test_a_process_that_was_started_by_another_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    trainer = evaluation_trainer({"accelerator": "cpu", "devices": 2})
    assert (trainer.global_rank, trainer.world_size, starts_processes(trainer)) == (1, 2, False)


def test_no_process_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two processes tests a module alone: there is no process group, and nothing is reduced."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    trainer = evaluation_trainer({"accelerator": "cpu", "devices": 2})

    class Module(lightning.LightningModule):
        def test_step(self, batch, batch_idx):
            assert not torch.distributed.is_initialized()

    trainer.test(Module(), torch.utils.data.DataLoader([1.0]), verbose=False)  # pyright: ignore
    assert trainer.strategy.broadcast("own") == "own"
    assert trainer.strategy.reduce(torch.tensor(3.0)) == 3.0
    trainer.strategy.barrier()


@pytest.mark.parametrize("key", ["limit_test_batches", "fast_dev_run", "overfit_batches", "barebones"])
def test_what_would_leave_samples_out_is_refused(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluation_trainer({"accelerator": "cpu", key: 1})
    assert caught.value.key == f"trainer.{key}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_evaluation_killed_again_and_again_ends_with_the_undisturbed_table(tmp_path: Path) -> None:
    """On two processes; ``python -m tests.evaluation.kills 20 FOLDER`` kills more often."""
    kills.survive(tmp_path / "killed", int(os.environ.get("HETPURE_KILLS", "2")), seed=0)
