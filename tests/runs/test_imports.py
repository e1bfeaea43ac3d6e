"""What reads and writes run folders must not need torch."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "diffusers", "timm", "torchvision")


@pytest.mark.parametrize(
    "module", ["claim", "honesty", "images", "names", "read", "records", "results", "verification"]
)
def test_runs_import_no_torch(module: str) -> None:
    code = f"import sys, hetpure.runs.{module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
