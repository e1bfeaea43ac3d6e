import os

# No test may reach for a network or an account.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import DiffusersDenoiser
from tests.toys import tiny_classifier, tiny_denoiser


@pytest.fixture(autouse=True)
def _global_state():
    """Every test starts from the same generator state, and on one thread: tiny networks gain nothing from more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def denoiser() -> DiffusersDenoiser:
    """A random UNet on 8x8 images with one channel."""
    return tiny_denoiser()


@pytest.fixture(scope="session")
def denoiser64() -> DiffusersDenoiser:
    return tiny_denoiser(dtype=torch.float64)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A random network with modules ``block1`` and ``block2``."""
    return tiny_classifier()


@pytest.fixture(scope="session")
def classifier64() -> Classifier:
    return tiny_classifier(dtype=torch.float64)
