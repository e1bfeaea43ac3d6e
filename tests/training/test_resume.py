import os
import signal
from pathlib import Path

import pytest
import torch

from hetpure.cli import main
from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.training.classifier import ClassifierTrainer
from hetpure.training.fit import fit
from tests.training.test_diffusion import new_module


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path, monkeypatch, capsys):
    command = ["--config", "digits_classifier.yaml", f"output={tmp_path}", "trainer.enable_progress_bar=false"]
    before = signal.getsignal(signal.SIGINT)
    command += ["trainer.max_steps=12", "trainer.val_check_interval=12", "trainer.accelerator=cpu"]
    seen = []

    def interrupt_at_5(self, batch, batch_idx):
        seen.append(self.trainer.global_step)
        if self.trainer.global_step == 5 and seen.count(5) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ClassifierTrainer, "on_train_batch_start", interrupt_at_5, raising=False)
    assert main(["train-classifier", *command]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("last*")] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6  # the step was finished
    assert signal.getsignal(signal.SIGINT) is before

    assert main(["train-classifier", *command]) == 0
    assert seen == list(range(12))
    assert "steps 12" in capsys.readouterr().out


class Bait:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def test_no_code_in_a_resume_file_is_run(tmp_path: Path):
    torch.save({"global_step": 1, "state_dict": Bait(tmp_path / "ran")}, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="refused, it holds code"):
        fit(new_module(), ImageDataModule("digits"), tmp_path, trainer={"max_steps": 2}, save_every=1)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the bait does not work"
