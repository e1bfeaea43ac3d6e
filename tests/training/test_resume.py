import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path):
    command = [sys.executable, ROOT / "train_classifier.py", "--config", "digits_classifier.yaml", f"output={tmp_path}"]
    command += ["trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "trainer.max_steps=100000", "save_every=5"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "interrupted" in error
    assert not list(tmp_path.glob("*.part"))

    import torch

    steps = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert steps >= 5
    result = subprocess.run(
        [*command, f"trainer.max_steps={steps + 3}"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert f"steps {steps + 3}" in result.stdout
