"""A training that was killed, its files damaged in every way that we could think of; then the same command again.

Nothing may end in a traceback. Either the command exports, bit for bit, the network of a training that nothing happened
to, or it refuses in one line, with an exit code of the documentation, and touches no file.
"""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hetpure.cli import main
from hetpure.errors import ConfigError
from hetpure.models.checkpoints import CheckpointError
from hetpure.training.classifier import ClassifierTrainer
from hetpure.training.resume import ResumeFile
from hetpure.training.state_file import DIGEST, MARK, StateFileIO, read_state

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
STEPS = 6


class KilledError(BaseException):
    """Ends a training as SIGKILL would: nothing is saved."""


def arguments(output: Path, *overrides: str) -> list[str]:
    settings = ["data.batch_size=4", "data.subset=4", "optimizer.name=adam", "optimizer.warmup_steps=2", "save_every=2"]
    settings += [f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}", "trainer.accelerator=cpu"]
    quiet = ["trainer.enable_progress_bar=false", "wandb.mode=disabled"]
    return ["--config", "digits_classifier.yaml", f"output={output}", *settings, *quiet, *overrides]


def train(output: Path, *overrides: str) -> int:
    torch.set_num_threads(1)  # in the fixtures too: bits depend on it
    return main(["train-classifier", *arguments(output, *overrides)])


def exported(output: Path) -> bytes:
    return (output / "classifier" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The exported network of a training that nothing happened to."""
    output = tmp_path_factory.mktemp("trained") / "run"
    assert train(output) == 0
    return exported(output)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one that was killed in step 5, with the states of steps 4 and 2."""
    output = tmp_path_factory.mktemp("killed") / "run"

    def kill(self: ClassifierTrainer, *_: Any) -> None:
        if self.trainer.global_step == 5:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassifierTrainer, "on_train_batch_start", kill, raising=False)
        with pytest.raises(KilledError):
            train(output)
    assert [torch.load(output / name, weights_only=True)["global_step"] for name in (LAST, PREVIOUS)] == [4, 2]
    yield output


@pytest.fixture
def run(killed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    capfd.readouterr()
    return shutil.copytree(killed, tmp_path / "run")


# ---- kinds of damage; each is a function of a file

Damage = Callable[[Path], object]


def edit(change: Callable[[bytes], bytes]) -> Damage:
    return lambda file: file.write_bytes(change(file.read_bytes()))


def truncated(length: int) -> Damage:
    return edit(lambda content: content[:length])


def flipped(place: float, bit: int = 0) -> Damage:
    """One bit, of a fraction of the file or of a byte counted from its end."""

    def change(content: bytes) -> bytes:
        at = int(place * len(content)) if place >= 0 else len(content) + int(place)
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return edit(change)


def unsealed(content: bytes) -> bytes:
    """A file as earlier versions wrote it."""
    end = len(content) - DIGEST - len(MARK)
    return content[: end - 2] + bytes(2)


def zeros(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(512) + content[middle + 512 :]


def of_another(file: Path) -> None:
    """The checksum of another file."""
    file.write_bytes(file.read_bytes()[:-DIGEST] + file.with_name(PREVIOUS).read_bytes()[-DIGEST:])


def saved(content: Any) -> Damage:
    return lambda file: torch.save(content, file)


def other_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "nothing of a training")


def code(save: Callable[[Any, Path], object]) -> Damage:
    return lambda file: save(Bait(file.with_name("ran")), file)


def put(make: Callable[[Path], object]) -> Damage:
    """Something else in the file's place."""

    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


class Bait:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def state(change: Callable[[dict[str, Any]], object], sealed: bool = True) -> Damage:
    """A whole file whose state is another: ``change`` edits it."""

    def damage(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        change(content)
        StateFileIO().save_checkpoint(content, file) if sealed else torch.save(content, file)

    return damage


def moments(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"][0]


DAMAGED: dict[str, Damage] = {
    "empty": truncated(0),
    "one byte": truncated(1),
    "a header alone": truncated(100),
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "without its last byte": truncated(-1),
    "without half its checksum": truncated(-DIGEST // 2),
    "without its directory": truncated(-1000),
    "longer": edit(lambda content: content + b"\0" * 10),
    "without its beginning": edit(lambda content: content[64:]),
    "zeros in the middle": edit(zeros),
    "all zeros": edit(lambda content: bytes(len(content))),
    **{f"a bit at {place:.0%}": flipped(place, n % 8) for n, place in enumerate((0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.95))},
    **{f"a bit {-place} bytes before the end": flipped(place, 3) for place in (-1, -DIGEST, -80, -200, -2000)},
    "checksum garbled": edit(lambda content: content[:-DIGEST] + b"x" * DIGEST),
    "checksum of another file": of_another,
    "without a checksum, a bit at 50%": lambda file: (flipped(0.5)(file), edit(unsealed)(file)),
    "without a checksum, half": edit(lambda content: unsealed(content)[: len(content) // 2]),
    "two files in one": edit(lambda content: content[: len(content) // 2] + content),
    "another zip": other_zip,
    "safetensors": lambda file: save_file({"weight": torch.zeros(3)}, file),
    "a pickle": edit(lambda _: pickle.dumps({"global_step": 3})),
    "a pickle with code": code(lambda bait, file: file.write_bytes(pickle.dumps(bait))),
    "a torch file with code": code(lambda bait, file: torch.save({"state_dict": bait}, file)),
    "JSON": edit(lambda _: json.dumps({"global_step": 3}).encode()),
    "text": edit(lambda _: "Trainingsstand: Schritt vier\n".encode("utf-16")),
    "a directory": put(lambda file: (file / "inside").mkdir(parents=True)),
    "a link to nowhere": put(lambda file: file.symlink_to("nowhere")),
    "a pipe": put(os.mkfifo),
    "a torch file of a tensor": saved(torch.zeros(3)),
    "a torch file of a list": saved([1, 2]),
    "a torch file of other keys": saved({"model": {"weight": torch.zeros(3)}, "epoch": 3}),
    "the weights alone": lambda file: torch.save(torch.load(file, weights_only=True)["state_dict"], file),
    "no weights": state(lambda content: content.pop("state_dict")),
    "no optimiser": state(lambda content: content.pop("optimizer_states")),
    "no schedule": state(lambda content: content.pop("lr_schedulers")),
    "no progress": state(lambda content: content.pop("loops"), sealed=False),
}
"""The file cannot be used. With another generation the training goes on; without one it is refused."""

OTHERS: dict[str, Damage] = {
    "a weight less": state(lambda content: content["state_dict"].popitem()),
    "a weight more": state(lambda content: content["state_dict"].update(other=torch.zeros(3))),
    "another shape": state(lambda content: content["state_dict"].update({"classifier.network.fc.bias": torch.ones(7)})),
    "no state dict": state(lambda content: content.update(state_dict=[1, 2])),
    "moments of another shape": state(lambda content: moments(content).update(exp_avg=torch.zeros(2, 2))),
    "moments missing": state(lambda content: moments(content).pop("exp_avg_sq")),
    "moments that are none": state(lambda content: content["optimizer_states"][0]["state"].update({0: "none"})),
    "no moments": state(lambda content: content["optimizer_states"][0].update(state={})),
    "no optimisers": state(lambda content: content.update(optimizer_states=[])),
    "no learning rate": state(lambda content: content["optimizer_states"][0]["param_groups"][0].pop("lr")),
    "fewer weights in the optimiser": state(lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop()),
    "no schedules": state(lambda content: content.update(lr_schedulers=[])),
    "an empty schedule": state(lambda content: content.update(lr_schedulers=[{}])),
    "no progress of training": state(lambda content: content["loops"].pop("fit_loop")),
    "no progress of the optimiser": state(
        lambda c: c["loops"]["fit_loop"].pop("epoch_loop.automatic_optimization.optim_progress")
    ),
    "progress that is none": state(lambda content: content.update(loops=3)),
    "steps that are no number": state(lambda content: content.update(global_step="four"), sealed=False),
}
"""The file is whole, but of another training."""


def some(names: Iterable[str], every: int) -> list[Any]:
    """Few are in the fast tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if n % every else []) for n, name in enumerate(names)]


def content_of(path: Path) -> Any:
    if path.is_symlink():
        return path.readlink()
    return path.read_bytes() if path.is_file() else path.exists()


def errors(capfd: pytest.CaptureFixture[str]) -> list[str]:
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) <= 3 and not any("Traceback" in line for line in lines), lines
    return lines


@pytest.mark.parametrize("name", some(DAMAGED, 4))
def test_previous_generation_is_used(run: Path, trained: bytes, capfd, name: str):
    DAMAGED[name](run / LAST)
    damaged = content_of(run / LAST)
    assert train(run) == 0
    (line,) = errors(capfd)
    assert f"{LAST}: " in line and line.endswith(f"; kept as {LAST}.damaged; resuming from {PREVIOUS}"), line
    assert exported(run) == trained
    assert content_of(run / f"{LAST}.damaged") == damaged
    assert not (run / "ran").exists()


@pytest.mark.parametrize("name", some(list(DAMAGED)[::5], 5))
@pytest.mark.parametrize("previous", ["damaged", "missing"])
def test_without_a_whole_generation_nothing_is_touched(run: Path, capfd, name: str, previous: str):
    DAMAGED[name](run / LAST)
    DAMAGED["half"](run / PREVIOUS) if previous == "damaged" else (run / PREVIOUS).unlink()
    before = {path.name: content_of(path) for path in run.glob("*ckpt*")}
    for _ in range(2):  # the second start is no beginning either
        assert train(run) == 2
        (line,) = errors(capfd)
        assert line.startswith(f"error: {run / LAST}: ") and f", and {PREVIOUS} is {previous}" in line, line
        assert line.endswith("choose another output, or remove the folder")
    assert {path.name: content_of(path) for path in run.glob("*ckpt*")} == before
    assert not (run / "classifier").exists() and not (run / "ran").exists()


def test_every_bit_counts(killed: Path, tmp_path: Path):
    content, file = (killed / LAST).read_bytes(), tmp_path / "flipped.ckpt"
    end = len(content) - 1
    for at in [*range(end, end - 100, -1), *range(0, end, end // 50)]:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_state(file)
        file.write_bytes(content[:at])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_state(file)


@pytest.mark.parametrize("name", some(OTHERS, 3))
def test_state_of_another_training(run: Path, capfd, name: str):
    OTHERS[name](run / LAST)
    before = content_of(run / LAST)
    assert train(run) == 2
    (line,) = errors(capfd)
    assert f"{run / LAST}: is no state of this training (" in line, line
    assert content_of(run / LAST) == before and not (run / "classifier").exists()


@pytest.mark.parametrize("name", ["half", "a directory", "a bit at 50%"])
def test_damaged_previous_generation_is_not_needed(run: Path, trained: bytes, capfd, name: str):
    DAMAGED[name](run / PREVIOUS)
    damaged = content_of(run / PREVIOUS)
    assert train(run) == 0
    assert exported(run) == trained
    if name == "a directory":
        (line,) = errors(capfd)
        assert f"kept as {PREVIOUS}.damaged" in line
        assert content_of(run / f"{PREVIOUS}.damaged") == damaged
    else:
        assert errors(capfd) == []


def test_missing_newest_file(run: Path, trained: bytes, capfd):
    (run / LAST).unlink()
    assert train(run) == 0
    assert errors(capfd) == [f"{run / LAST}: is missing; resuming from {PREVIOUS}"]
    assert exported(run) == trained


def test_each_damaged_file_is_kept(run: Path, trained: bytes, capfd):
    (run / f"{LAST}.damaged").write_text("of an earlier fall")
    DAMAGED["half"](run / LAST)
    assert train(run) == 0
    assert f"kept as {LAST}.damaged-2" in errors(capfd)[0]
    assert (run / f"{LAST}.damaged").read_text() == "of an earlier fall"
    assert exported(run) == trained


def test_folder_of_an_earlier_version(run: Path, trained: bytes, capfd):
    (run / PREVIOUS).unlink()
    edit(unsealed)(run / LAST)
    assert torch.load(run / LAST, weights_only=True)["global_step"] == 4
    assert train(run) == 0
    assert errors(capfd) == []
    assert exported(run) == trained


def test_unreadable_file_is_not_damaged(run: Path, trained: bytes, monkeypatch, capfd):
    def refuse(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as patch:  # root reads everything
        patch.setattr(Path, "read_bytes", refuse)
        assert train(run) == 2
    assert errors(capfd) == [f"error: {run / LAST}: cannot be read or renamed: Permission denied"]
    assert train(run) == 0
    assert exported(run) == trained


@pytest.mark.parametrize("left", ["metrics.json", "last.ckpt.damaged"])
def test_work_without_any_generation_is_not_begun_again(run: Path, capfd, left: str):
    for name in (LAST, PREVIOUS):
        (run / name).unlink()
    (run / left).write_text("{}")
    assert train(run) == 2
    (line,) = errors(capfd)
    assert line.startswith(f"error: output: {run} has {left}, but no {LAST}; ")


def test_killed_before_the_first_state(run: Path, trained: bytes, capfd):
    for name in (LAST, PREVIOUS):
        (run / name).unlink()
    assert train(run) == 0
    assert errors(capfd) == [] and exported(run) == trained


@pytest.mark.parametrize("rename", range(5))  # two for the first state, three for the second
def test_killed_at_any_rename(tmp_path: Path, trained: bytes, monkeypatch, capfd, rename: int):
    renames, replace = iter(range(9)), Path.replace

    def killing(self: Path, target: Path) -> Path:
        if target.suffix == ".ckpt" and next(renames) == rename:
            raise KilledError
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killing)
        with pytest.raises(KilledError):
            train(tmp_path)
    capfd.readouterr()
    assert train(tmp_path) == 0
    assert len(errors(capfd)) == (rename == 4)  # the newest has become the previous one
    assert exported(tmp_path) == trained


def test_killed_while_a_state_is_written(run: Path, trained: bytes, capfd):
    (run / "new.part").write_bytes((run / LAST).read_bytes()[:1000])
    (run / "new.ckpt").write_bytes((run / LAST).read_bytes()[:1000])
    assert train(run) == 0
    assert errors(capfd) == [] and exported(run) == trained
    assert {path.name for path in run.glob("*.*t")} == {LAST, PREVIOUS}


@pytest.mark.parametrize("file", ["config.yaml", "run.json"])
def test_damaged_files_of_the_claim(run: Path, trained: bytes, capfd, file: str):
    (run / file).write_bytes(b"\0\xff{")
    code = train(run)
    assert code in (0, 2) and len(errors(capfd)) == 1
    assert code == 2 or exported(run) == trained


def test_errors_of_the_training_itself_are_not_blamed_on_the_file(run: Path, monkeypatch):
    def fail(self: ClassifierTrainer, *_: Any) -> None:
        raise ValueError("of the training itself")

    monkeypatch.setattr(ClassifierTrainer, "on_train_batch_start", fail, raising=False)
    with pytest.raises(ValueError, match="of the training itself"):
        train(run)


def test_other_processes_refuse_what_the_first_refuses(run: Path):
    DAMAGED["half"](run / LAST)
    trainer: Any = SimpleNamespace(is_global_zero=False, strategy=SimpleNamespace(broadcast=lambda _: "is damaged"))
    with pytest.raises(ConfigError, match=f"{LAST}: is damaged"):
        ResumeFile(run / LAST, 2).setup(trainer, trainer, "fit")
    trainer.strategy.broadcast = lambda problem: problem
    ResumeFile(run / LAST, 2).setup(trainer, trainer, "fit")
    assert (run / LAST).exists() and (run / PREVIOUS).exists()  # only the first process renames


@pytest.mark.slow
def test_two_processes_read_the_same_generation(tmp_path: Path):
    script = Path(__file__).parents[2] / "train_classifier.py"
    options = ("trainer.devices=2", "trainer.strategy=ddp")

    def train_twice(output: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *arguments(output, *options)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert train_twice(tmp_path / "whole").returncode == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    DAMAGED["a bit at 50%"](tmp_path / "run" / LAST)
    again = train_twice(tmp_path / "run")
    assert again.returncode == 0 and again.stderr.count(f"resuming from {PREVIOUS}") == 1, again.stderr
    assert exported(tmp_path / "run") == exported(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "run").glob("*ckpt*")} == {LAST, PREVIOUS, f"{LAST}.damaged"}
