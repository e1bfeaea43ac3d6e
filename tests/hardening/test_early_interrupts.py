"""Ctrl-C in a command's first seconds: while it imports, loads or begins, one line and exit code 130."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hetpure.config import PROJECT_ROOT
from hetpure.errors import INTERRUPTED

PROGRAMS = {
    "evaluate.py": ("runpy.run_path('evaluate.py', run_name='__main__')", "digits.yaml", "attack.steps=100000"),
    "train_diffusion.py": ("runpy.run_path('train_diffusion.py', run_name='__main__')", "digits_denoiser.yaml"),
    "train_classifier.py": ("runpy.run_path('train_classifier.py', run_name='__main__')", "digits_classifier.yaml"),
    "python -m hetpure": ("runpy.run_module('hetpure', run_name='__main__')", "digits.yaml", "attack.steps=100000"),
    "hetpure": ("from hetpure.cli import main; sys.exit(main())", "digits.yaml", "attack.steps=100000"),
}
"""Ways to start a command, with a config and an override that keep it busy for longer than this test waits."""

MOMENTS = (0.05, 0.2, 0.5, 0.9, 1.4, 2.0, 2.7, 3.5, 4.5, 6.0)
"""Seconds after the interpreter has come to the program."""


def interrupted(program: str, seconds: float, output: Path) -> str | None:
    """What is wrong with how a program ends that is interrupted after some seconds; None where nothing is."""
    start, config, *overrides = PROGRAMS[program]
    command = [] if program.endswith(".py") else ["evaluate"]
    arguments = [*command, "--config", config, f"output={output}", "wandb.mode=disabled", *overrides]
    code = f"import runpy, sys; print('here', flush=True); {start}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # may be ignored here
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            return "does not end"
    lines = [line for line in errors.splitlines() if line.startswith("interrupted: ")]
    is_right = process.returncode == INTERRUPTED and len(lines) == 1
    return None if is_right and "Traceback" not in errors and "Exception" not in errors else errors or "says nothing"


@pytest.mark.slow
def test_ctrl_c_in_the_first_seconds_is_one_line(tmp_path: Path) -> None:
    names = [list(PROGRAMS)[number % len(PROGRAMS)] for number in range(len(MOMENTS))]
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path / str(number) for number in range(len(MOMENTS))]
        problems = list(pool.map(interrupted, names, MOMENTS, folders))
    cases = zip(names, MOMENTS, problems, strict=True)
    wrong = [f"{name} after {seconds} s: {problem}" for name, seconds, problem in cases if problem is not None]
    assert not wrong, "\n".join(wrong)
