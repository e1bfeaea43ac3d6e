"""Libraries of networks are imported when a network is loaded, not before."""

import subprocess
import sys

import pytest

HEAVY = ("diffusers", "timm", "huggingface_hub", "transformers", "datasets", "torchvision", "lightning")


@pytest.mark.parametrize("module", ["classifiers", "denoisers", "activations", "precision"])
def test_interfaces_import_no_library_of_networks(module: str) -> None:
    code = f"import sys, hetpure.models.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
