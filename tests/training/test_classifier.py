import json
from pathlib import Path

import timm
import torch
from packaging.version import Version
from safetensors.torch import load_file

from hetpure.cli import main


def command(output: Path, *overrides: str) -> int:
    arguments = ["--config", "digits_classifier.yaml", f"output={output}", "trainer.enable_progress_bar=false"]
    return main(["train-classifier", *arguments, "data.batch_size=32", "trainer.accelerator=cpu", *overrides])


def test_learns_exports_and_goes_on(tmp_path: Path, capsys):
    assert command(tmp_path, "trainer.max_steps=60", "trainer.val_check_interval=60") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["steps"] == 60 and metrics["val/accuracy"] > 0.6

    state = load_file(tmp_path / "classifier" / "model.safetensors")
    if Version(timm.__version__) >= Version("1.0.16"):  # timm reads a folder
        loaded = timm.create_model(f"local-dir:{tmp_path / 'classifier'}", pretrained=True, in_chans=1).eval()
        for key, value in loaded.state_dict().items():
            assert torch.equal(state[key].to(value.dtype), value)
        assert list(loaded.pretrained_cfg["mean"]) == [0.0]
        assert loaded.num_classes == 10 and loaded.conv1.in_channels == 1

    assert command(tmp_path, "trainer.max_steps=70", "trainer.val_check_interval=60") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 70
    assert capsys.readouterr().err == ""


def test_class_count_must_match(tmp_path: Path, capsys):
    assert command(tmp_path, "classifier.arguments.num_classes=7") == 2
    assert "classifier: gives 7 class scores, but the data have 10 classes" in capsys.readouterr().err
