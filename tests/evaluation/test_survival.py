"""What an evaluation survives: memory that runs out, values that are not finite, disks, processes that die."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import wandb
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient
from hetpure.config import PROJECT_ROOT
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import Guarded, first_not_finite
from hetpure.defense.memory import in_smaller_chunks, is_out_of_memory
from hetpure.errors import RunError
from hetpure.evaluation.heartbeat import Pulse
from hetpure.evaluation.process_monitor import Watch
from hetpure.models.denoisers import DiffusersDenoiser
from hetpure.noise import defense_draws
from hetpure.purification.pixeldefend import PixelDefendPurifier
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs.records import RecordStore
from tests.evaluation import jobs, kills
from tests.purification.networks import ToyPixelCNN
from tests.toys import LinearDenoiser, ToyDenoiser, images, rows, tiny_classifier

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


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried ..."),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


def test_chunks_are_halved_until_they_fit() -> None:
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(ToyDenoiser(), 0.1, 10), 10, chunk_size=12)
    tried, said = [], []

    def compute() -> int:
        tried.append(process.chunk_size)
        if process.chunk_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 7

    assert in_smaller_chunks(compute, [process], said.append) == 7
    assert tried == [12, 6, 3] and process.chunk_size == 3
    assert "chunks of 6 instead of 12 rows" in said[0] and len(said) == 2


def test_memory_for_not_even_one_row_is_the_end() -> None:
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(ToyDenoiser(), 0.1, 10), 10, chunk_size=2)

    def compute() -> None:
        raise MemoryError

    with pytest.raises(RunError, match="out of memory with one row"):
        in_smaller_chunks(compute, [process], lambda text: None)


def test_other_errors_pass() -> None:
    def compute() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_smaller_chunks(compute, [], lambda text: None)


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


def defense(denoiser) -> PurifiedClassifier:
    return PurifiedClassifier(tiny_classifier(), UniformPurifier(denoiser, 0.2, 10), 10, 2, chunk_size=4)


class Spoiled(LinearDenoiser):
    """Infinite for one bright image, at one timestep."""

    def __init__(self, value: float = float("inf")) -> None:
        super().__init__(0.5)
        self.value = value

    def forward(self, x: Tensor, t: int) -> Tensor:
        noise = super().forward(x, t)
        if t == 100:
            noise = torch.where((x.flatten(1).mean(1) > 0.5).view(-1, 1, 1, 1), self.value, noise)
        return noise


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_the_first_tensor_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    x = torch.cat([torch.full((1, 1, 8, 8), 1.0), torch.zeros(1, 1, 8, 8)])
    model = defense(Guarded(Spoiled(value)))
    draws = defense_draws(0, torch.tensor([3, 4]), 2)
    logits = model.purified_logits(x, draws)
    assert logits[:2].isnan().all() and logits[2:].isfinite().all(), "no other sample is touched"
    kind = "NaN" if value != value else "infinite"
    assert first_not_finite(model, x[:1], draws.rows(slice(0, 2))) == f"predicted noise at timestep 100, {kind}"
    assert first_not_finite(model, x[1:], draws.rows(slice(2, 4))) is None
    assert first_not_finite(model, x[:1] / 0.0, draws.rows(slice(0, 2))) == "the image, infinite"
    assert not model.purifier.denoiser.denoiser._forward_hooks, "nothing stays behind"


def test_the_guard_changes_nothing_that_is_finite() -> None:
    x, draws = images(4).requires_grad_(), defense_draws(0, torch.arange(4), 2)
    found = []
    for denoiser in (ToyDenoiser(), Guarded(ToyDenoiser())):
        logits = defense(denoiser).purified_logits(x, draws)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


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

    monkeypatch.setattr("hetpure.evaluation.run.write_results", full)
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


# ---- processes

WATCHING = """
import sys, time
from pathlib import Path
import hetpure.evaluation.process_monitor as watch
watch.BEAT, watch.PATIENCE, watch.GRACE = 0.1, 1.5, 0.2
rank, how = int(sys.argv[2]), sys.argv[3]
own = watch.Watch(Path(sys.argv[1]), rank, 2, lambda reason: print("lost:", reason, flush=True)).start(1.0)
print("started", flush=True)
time.sleep(1.0)
if how == "fail":
    own.leave("ended with OSError: No space left on device")
elif how == "done":
    own.leave()
elif how == "hung":
    own.hang = 0.5
    own.moved()
    time.sleep(60)
elif how == "silent":
    own._host = "elsewhere"
    time.sleep(0.5)
    own._beat = lambda: None
    time.sleep(60)
else:
    time.sleep(float(how))
"""


def watching(folder: Path, rank: int, how: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WATCHING, str(folder), str(rank), how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("60", "process 2 of 2 .* ended without a word"),
        ("fail", "process 2 of 2 .*: ended with OSError: No space left on device"),
        ("silent", "process 2 of 2 \\(host elsewhere.* no sign of life"),
        ("hung", "process 2 of 2 .*: has hung: no network call"),
        ("done", None),
    ],
    ids=["killed", "failed", "silent", "hung", "done"],
)
def test_a_process_that_is_gone_ends_the_others_with_its_reason(tmp_path: Path, how: str, said: str | None) -> None:
    second = watching(tmp_path, 1, how)
    first = watching(tmp_path, 0, "60" if said else "3")
    if how == "60":
        assert first.stdout is not None and first.stdout.readline() == "started\n"
        time.sleep(1.0)
        second.send_signal(signal.SIGKILL)
    try:
        printed, errors = first.communicate(timeout=50)
    finally:
        second.kill()
        second.communicate()
    if said is None:
        assert (first.returncode, printed) == (0, "started\n"), errors
    else:
        assert first.returncode == 3, errors
        assert re.search(f"lost: {said}", printed), printed


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    first = Watch(tmp_path, 0, 1, lambda reason: None).start()
    with pytest.raises(RunError, match="another run is at work"):
        Watch(tmp_path, 0, 1, lambda reason: None).start(0.3)
    first.leave()
    Watch(tmp_path, 0, 1, lambda reason: None).start(0.3).leave()


def test_a_smaller_run_waits_for_the_last_process_of_a_larger_one(tmp_path: Path) -> None:
    second = Watch(tmp_path, 1, 2, lambda reason: None).start()
    with pytest.raises(RunError, match="another run is at work"):
        Watch(tmp_path, 0, 1, lambda reason: None).start(0.3)
    second.leave()
    Watch(tmp_path, 0, 1, lambda reason: None).start(0.3).leave()


def test_a_process_that_waits_is_not_hung(tmp_path: Path) -> None:
    own = Watch(tmp_path, 0, 1, lambda reason: None, hang=0.05)
    assert own._hung() is None, "work has not begun"
    own.moved()
    assert own._hung() is None
    time.sleep(0.1)
    assert "has hung" in str(own._hung())
    own.rest()
    assert own._hung() is None


def test_a_purifiers_own_network_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    process = PurifiedClassifier(tiny_classifier(), PixelDefendPurifier(ToyPixelCNN(), shape=[1, 2, 2]), 10)
    beats: list[int] = []
    monkeypatch.setattr(Pulse, "beat", lambda *_: beats.append(1))
    pulse, nothing = Pulse(None, [process]), Mock()
    pulse.setup(nothing, nothing, "test")
    process.purifier(images(2, 1)[..., :2, :2], rows(2))
    assert len(beats) == 4
    pulse.teardown(nothing, nothing, "test")
    process.purifier(images(2, 1)[..., :2, :2], rows(2))
    assert len(beats) == 4


def test_an_evaluation_that_hangs_ends_with_the_place_and_what_it_has(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """The end of the process is planted: it lets the hanging call go on, so that this process sees what was said."""
    real, ended, codes = DiffusersDenoiser.forward, threading.Event(), list[int]()

    def hanging(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        if (tmp_path / "run" / "only" / "samples-000.jsonl").is_file() and not codes:
            assert ended.wait(60.0), "not noticed"
        return real(self, x, t)

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(DiffusersDenoiser, "forward", hanging)
    monkeypatch.setattr("hetpure.evaluation.process_monitor.BEAT", 0.1)
    monkeypatch.setattr("hetpure.evaluation.process_monitor.os._exit", end)
    evaluate(tmp_path / "run", "hang_minutes=0.03")
    said = capfd.readouterr()
    assert codes == [3]
    assert "error: process 1 of 1 has hung: no network call" in said.err and "in hanging" in said.err
    assert "3 of 6" in said.out, "the table of what there is"
    assert outcome(tmp_path / "run") == outcome(undisturbed)


class Deaf:
    """Ctrl-C arrives in its finaliser, where Python drops it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_heard_at_the_next_call(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, before = DiffusersDenoiser.forward, [], signal.getsignal(signal.SIGINT)

    def dropping(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        if (tmp_path / "run" / "only" / "samples-000.jsonl").is_file():
            calls.append(t)
            if len(calls) == 1:
                Deaf()
        return real(self, x, t)

    monkeypatch.setattr(DiffusersDenoiser, "forward", dropping)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert evaluate(tmp_path / "run") == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert len(calls) == 1 and len(outcome(tmp_path / "run")) == 3
    monkeypatch.undo()
    assert evaluate(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_evaluation_killed_again_and_again_ends_with_the_undisturbed_table(tmp_path: Path) -> None:
    """On two processes; ``python -m tests.evaluation.kills 20 FOLDER`` kills more often."""
    kills.survive(tmp_path / "killed", int(os.environ.get("HETPURE_KILLS", "2")), seed=0)
