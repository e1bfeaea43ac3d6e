"""What an evaluation survives: memory that runs out, values that are not finite, disks, W&B, hanging networks."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import wandb
from PIL import Image
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient
from hetpure.data import ImageDataModule
from hetpure.data.items import Items
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import UnreadableError
from hetpure.evaluation import process_monitor
from hetpure.models.denoisers import DiffusersDenoiser
from hetpure.runs.store import RecordStore
from tests.evaluation import jobs

OVERRIDES = [
    "data.subset=6", "data.batch_size=3", "attack.steps=2", "attack.eot=2", "ensemble.size=2", "chunk_size=4",
]  # fmt: skip
ROWS = {"only": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}


def evaluate(output: Path, *overrides: str) -> int:
    return jobs.evaluate(output, ROWS, *OVERRIDES, *overrides)


def outcome(output: Path) -> dict[int, tuple]:
    store = RecordStore(output / "only")
    found = {}
    for r in store.read():
        image = store.adversarial(r)
        found[r.index] = (r.clean_scores, r.adversarial_scores, None if image is None else image.tobytes())
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert evaluate(output) == 0
    return output


# ---- out of memory


@pytest.mark.parametrize("graph", [True, False], ids=["attack", "defense"])
def test_an_evaluation_goes_on_with_smaller_chunks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, graph: bool
) -> None:
    """What was done in chunks of 2 for want of memory is what a run with chunks of 2 does."""
    real = DiffusersDenoiser.forward

    def hungry(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        if len(x) > 2 and x.requires_grad is graph:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 17179869184 bytes.")
        return real(self, x, t)

    monkeypatch.setattr(DiffusersDenoiser, "forward", hungry)
    assert evaluate(tmp_path / "run") == 0
    assert "chunks of 2 instead of 4 rows" in capfd.readouterr().err
    records = RecordStore(tmp_path / "run" / "only").read()
    chunks = {"attack": 2, "defense": 4} if graph else {"attack": 4, "defense": 2}
    assert len(records) == 6 and all(r.chunks == chunks for r in records)
    assert "memory ran out; 6 of 6 samples" in (tmp_path / "run" / "results.md").read_text()
    monkeypatch.undo()
    if graph:
        monkeypatch.setattr(PurifiedClassifier, "__init__", _attack_chunks(PurifiedClassifier.__init__))
        assert evaluate(tmp_path / "two") == 0
        assert outcome(tmp_path / "two") == outcome(tmp_path / "run")


def _attack_chunks(real):
    """The attack process (built without an ensemble) with chunks of 2."""

    def init(self, classifier, purifier, num_classes, *args, **kwargs) -> None:
        real(self, classifier, purifier, num_classes, *args, **kwargs)
        if not args:
            self.chunk_size = 2

    return init


# ---- NaN and infinity


def test_a_sample_that_fails_is_named_and_the_rest_goes_on(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    real, bad = ExactGradient.__call__, sorted(outcome(undisturbed))[2]

    def spoiled(self: ExactGradient, x: Tensor, label: Tensor, sample: Tensor, iteration: int, *rest):
        found = real(self, x, label, sample, iteration, *rest)
        if iteration == 1:
            found.value[sample == bad] = torch.nan
        return found

    monkeypatch.setattr(ExactGradient, "__call__", spoiled)
    assert evaluate(tmp_path / "run") == 0
    reason = "not finite at attack iteration 1: the gradient, NaN"
    assert f"sample {bad}: {reason}" in capfd.readouterr().err
    records = {r.index: r for r in RecordStore(tmp_path / "run" / "only").read()}
    assert records[bad].failure == reason and records[bad].adversarial == [] and records[bad].image is None
    whole = outcome(undisturbed)
    assert {k: v for k, v in outcome(tmp_path / "run").items() if k != bad} == {
        k: v for k, v in whole.items() if k != bad
    }
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert (row["images"], row["failed"], row["total"], row["robust"]["count"]) == (5, 1, 6, 5)
    text = (tmp_path / "run" / "results.md").read_text()
    assert "5 of 6 (1 failed)" in text and f"sample {bad}: {reason}" in text
    # A failed sample is done: the same command does not try it again.
    assert evaluate(tmp_path / "run") == 0
    assert "all 6 images are done already" in capfd.readouterr().out


def rest(output: Path, bad: int) -> dict[int, tuple]:
    return {index: result for index, result in outcome(output).items() if index != bad}


@pytest.mark.parametrize("where", ["attack", "defense"])
def test_a_sample_on_which_code_raises_is_named_and_the_rest_goes_on(
    where: str, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """The second of its batch of three: the others have the results that they have without it."""
    bad = list(json.loads(line)["index"] for line in (undisturbed / "only/samples-000.jsonl").open())[1]

    def raising(real):
        def call(self, *arguments):
            if any(isinstance(a, Tensor) and a.dtype == torch.long and bad in a for a in arguments[:3]):
                raise ZeroDivisionError("planted")
            return real(self, *arguments)

        return call

    if where == "attack":
        monkeypatch.setattr(ExactGradient, "__call__", raising(ExactGradient.__call__))
    else:
        real = PurifiedClassifier._scores
        spoiled = raising(lambda self, index, batch: real(self, batch))
        monkeypatch.setattr(PurifiedClassifier, "_scores", lambda self, batch: spoiled(self, batch["index"], batch))
    assert evaluate(tmp_path / "run") == 0
    errors = capfd.readouterr().err
    said = f"sample {bad}: ZeroDivisionError in the {where}: planted (test_survival.py:"
    assert said in errors and "Traceback" not in errors
    assert rest(tmp_path / "run", bad) == rest(undisturbed, bad)
    records = {r.index: r for r in RecordStore(tmp_path / "run" / "only").read()}
    assert records[bad].clean == [] and records[bad].image is None
    assert "planted" in (tmp_path / "run" / "only" / "errors.txt").read_text()
    assert evaluate(tmp_path / "run") == 0 and "all 6 images are done" in capfd.readouterr().out


def test_code_that_raises_on_every_sample_stops_the_run(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """It is not the samples: they are done once the code is mended."""
    with monkeypatch.context() as broken:
        broken.setattr(ExactGradient, "see", lambda *_: 1 / 0)
        assert evaluate(tmp_path / "run") == 3
    errors = [line for line in capfd.readouterr().err.splitlines() if line and "images" not in line]
    assert len(errors) == 1 and "only: every sample fails: ZeroDivisionError in the attack" in errors[0]
    assert evaluate(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_an_image_that_cannot_be_read_is_a_failed_sample(tmp_path: Path, capfd) -> None:
    """Here the file of one of six pictures; the same run with it whole gives the others the same results."""
    source = ImageDataModule("digits").prepare().test_source
    for index in range(6):
        file = tmp_path / "images" / "test" / str(index % 10) / f"{index}.png"
        file.parent.mkdir(parents=True)
        Image.fromarray((source.image(index)[0] * 15).numpy()).convert("L").save(file)
    data = ["data.name=folder", f"data.root={tmp_path / 'images'}", "data.subset=null", "classifier.weights=random",
            "classifier.arguments.in_chans=3", "classifier.arguments.num_classes=6"]  # fmt: skip
    rows = {"only": {"purifier": {"name": "none"}}}
    runs = tmp_path / "whole", tmp_path / "run"
    assert jobs.evaluate(runs[0], rows, *OVERRIDES, *data) == 0
    (tmp_path / "images" / "test" / "3" / "3.png").write_bytes(b"no image")
    assert jobs.evaluate(runs[1], rows, *OVERRIDES, *data) == 0
    assert "sample 3: test/3/3.png cannot be read: it is no image; it is recorded" in capfd.readouterr().err
    assert rest(runs[1], 3) == rest(runs[0], 3) and outcome(runs[1])[3] == ([], [], None)
    assert jobs.evaluate(runs[0], rows, *OVERRIDES, *data) == 2, "other images than the run's"
    assert "data.every_image was" in capfd.readouterr().err
    assert jobs.evaluate(tmp_path / "checked", rows, *OVERRIDES, *data, "data.check=true") == 2
    assert "data.check: 1 of 6 images cannot be read, such as" in capfd.readouterr().err


def test_an_image_that_can_be_read_no_more_stops_the_run(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """All images could be read when the run began: it is the disk, and no sample is recorded as failed."""
    with monkeypatch.context() as broken:
        real, reads = Items.__getitem__, []

        def gone(self: Items, position: int):
            reads.append(position)
            if len(reads) > 4:
                raise UnreadableError("test/3.png cannot be read: Input/output error")
            return real(self, position)

        broken.setattr(Items, "__getitem__", gone)
        assert evaluate(tmp_path / "run") == 3
    assert "error: test/3.png cannot be read: Input/output error" in capfd.readouterr().err
    assert evaluate(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_an_infinite_prediction_in_the_defense_is_named(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DiffusersDenoiser.forward
    calls = {"clean": 0}

    def spoiled(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        noise = real(self, x, t)
        if not torch.is_grad_enabled() or not x.requires_grad:
            calls["clean"] += len(x) == 4  # a chunk: the first call only tries the denoiser out
            if calls["clean"] == 1 and len(x) == 4:
                noise = noise.clone()
                noise[0, 0, 0, 0] = torch.inf
        return noise

    monkeypatch.setattr(DiffusersDenoiser, "forward", spoiled)
    assert evaluate(tmp_path / "run", "attack.name=none") == 0
    (failed,) = [r for r in RecordStore(tmp_path / "run" / "only").read() if r.failure]
    assert failed.failure and failed.failure.startswith("not finite in the defense, clean image")


# ---- disks and W&B


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_stops_the_run_with_what_it_has(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd, code: int
) -> None:
    real, written = RecordStore.append, []

    def append(self: RecordStore, records, pictures=None) -> None:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(1)
        real(self, records, pictures)

    monkeypatch.setattr(RecordStore, "append", append)
    assert evaluate(tmp_path / "run") == 3
    said = capfd.readouterr()
    assert os.strerror(code) in said.err and "Traceback" not in said.err
    assert "3 of 6" in said.out, "the table of what there is"
    monkeypatch.undo()
    assert evaluate(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_tables_that_cannot_be_written_are_still_shown(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    evaluate(tmp_path / "run", "data.subset=3")
    before = (tmp_path / "run" / "results.json").read_bytes()

    def full(report, folder) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hetpure.evaluation.report.write_results", full)
    monkeypatch.setattr("hetpure.reports.write.write_table_files", full)
    assert evaluate(tmp_path / "run", "data.subset=3") == 0
    said = capfd.readouterr()
    assert "results cannot be written: No space left" in said.err and "only" in said.out
    assert "results.md: cannot be written: No space left" in said.err
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_a_dashboard_that_fails_does_not_stop_the_evaluation(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    def unreachable(*args, **kwargs):
        raise wandb.errors.CommError("Run initialization has timed out after 30.0 sec")

    monkeypatch.setattr(wandb, "init", unreachable)
    assert evaluate(tmp_path / "run", "wandb.mode=offline") == 0
    assert "timed out after 30.0 sec; going on without it" in capfd.readouterr().out
    assert outcome(tmp_path / "run") == outcome(undisturbed)


# ---- hanging networks and lost interrupts


def test_an_evaluation_that_hangs_ends_with_the_place_and_what_it_has(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """The end of the process is planted: it lets the hanging call go on, so that this process sees what was printed."""
    real, ended, codes = DiffusersDenoiser.forward, threading.Event(), list[int]()

    def hanging(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        if (tmp_path / "run" / "only" / "samples-000.jsonl").is_file() and not codes:
            assert ended.wait(60.0), "not noticed"
        return real(self, x, t)

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(DiffusersDenoiser, "forward", hanging)
    monkeypatch.setattr(process_monitor, "INTERVAL", 0.1)
    monkeypatch.setattr(process_monitor.os, "_exit", end)
    evaluate(tmp_path / "run", "hang_minutes=0.03")
    printed = capfd.readouterr()
    assert codes == [3]
    assert "error: process 1 of 1 has hung: no network call" in printed.err and "in hanging" in printed.err
    assert "3 of 6" in printed.out, "the table of what there is"
    assert outcome(tmp_path / "run") == outcome(undisturbed)


class Deaf:
    """A signal arrives in its finaliser, where Python drops it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_drops_is_heard_at_the_next_call(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd, number: int, code: int
) -> None:
    real, calls, before = DiffusersDenoiser.forward, [], signal.getsignal(signal.SIGINT)

    def dropping(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        if (tmp_path / "run" / "only" / "samples-000.jsonl").is_file():
            calls.append(t)
            if len(calls) == 1:
                Deaf(number)
        return real(self, x, t)

    monkeypatch.setattr(DiffusersDenoiser, "forward", dropping)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code(tmp_path / "run") == code
    finally:
        signal.signal(signal.SIGINT, before)
    printed = capfd.readouterr()
    assert "run the same command again to continue" in printed.err and "3 of 6" in printed.out
    assert len(calls) == 1 and len(outcome(tmp_path / "run")) == 3
    monkeypatch.undo()
    assert evaluate(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def exit_code(output: Path) -> int:
    try:
        return evaluate(output)
    except SystemExit as error:
        assert isinstance(error.code, int)
        return error.code
