"""CONTRIBUTING's example is code that runs, and does what is said of it."""

import re
from pathlib import Path
from typing import Any

import torch

from hetpure.purification import Purifier
from tests.toys import ToyDenoiser, images, rows


def test_the_example_is_a_purifier() -> None:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    found: dict[str, Any] = {}
    exec(block[1], found)
    purifier = found["BlurPurifier"](ToyDenoiser(), t=0.2)
    assert isinstance(purifier, Purifier) and purifier.network_calls == 1
    x = images(2).requires_grad_()
    out = purifier(x, rows(2))
    assert out.shape == x.shape and 0.0 <= float(out.min()) <= float(out.max()) <= 1.0
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert float(gradient.abs().max()) > 0.0
    views = purifier.views(x.detach(), rows(2))
    assert list(views) == ["noise", "purified"]
    torch.testing.assert_close(views["purified"], out.detach(), rtol=0, atol=0)
