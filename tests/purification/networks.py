"""Toy networks of the kinds that some purifiers are around, and files of their weights."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class ToyEnergy(nn.Module):
    """Not quadratic, mixes pixels; batches of one give a number without a dimension, as the released energies do."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.linspace(0.02, 0.05, channels).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + 0.3 * x.roll(1, dims=-1) - 0.2
        return (self.strength * (torch.cosh(mixed) + 0.5 * x.square())).sum(dim=(1, 2, 3)).squeeze()


class ToyInpainter(nn.Module):
    """Coarse and refined images from the image with gaps, the ones and the mask; looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.6))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert len(x) == len(mask) == 1 and torch.equal(x[:, -1:], mask) and bool((x[:, -2] == 1.0).all())
        coarse = torch.tanh(self.strength * (x[:, :-2] + x[:, :-2].roll(1, dims=-2)))
        return coarse, torch.tanh(coarse + 0.3 * mask + 0.1 * x[:, :1])


class ToyVelocity(nn.Module):
    """Not linear, mixes pixels, depends on the time."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.6))

    def forward(self, x: Tensor, s: float) -> Tensor:
        return self.strength * (0.3 + s) * torch.tanh(x.roll(1, dims=-1) - 0.7 * x)


class ToyPixelCNN(nn.Module):
    """A bump of likelihood around a mixture of the values before each entry, in raster order, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(9.0))

    def forward(self, x: Tensor) -> Tensor:
        order = (127.5 * (x + 1.0)).permute(0, 2, 3, 1).flatten(1)
        before = torch.cat((torch.full_like(order[:, :2], 100.0), order), dim=1)
        mean = 0.7 * before[:, 1:-1] + 0.3 * before[:, :-2]
        value = torch.arange(256).to(x.dtype).view(1, -1, 1)
        logits = -(((value - mean[:, None]) / self.width) ** 2)
        return logits.unflatten(2, (*x.shape[2:], x.shape[1])).permute(0, 1, 4, 2, 3)


class Constant(nn.Module):
    """Gives the same whatever it is asked."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(shape))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.answer


@functools.cache
def network_settings(name: str) -> dict[str, Any]:
    """``purifier.network`` of a toy, its weights in a file."""
    file = Path(tempfile.mkdtemp()) / f"{name}.safetensors"
    save_file(globals()[name]().state_dict(), file)
    return {"name": f"tests.purification.networks:{name}", "weights": str(file)}
