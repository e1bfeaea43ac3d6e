"""Small stand-ins: networks whose answers are known in closed form, and noise that a test hands out itself."""

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser
from hetpure.noise import Draws

ALPHA_BARS = np.cumprod(1.0 - np.linspace(1e-4, 2e-2, 1000, dtype=np.float64))
"""The linear VP schedule, written down once more so that tests do not ask the code under test."""


def abar(t: int) -> float:
    return 1.0 if t < 0 else float(ALPHA_BARS[t])


def alpha(t: int) -> float:
    return 1.0 - float(np.linspace(1e-4, 2e-2, 1000, dtype=np.float64)[t])


class ToyDenoiser(Denoiser):
    """eps = a(t) * tanh(x + x shifted by a pixel): mixes pixels, depends on t, remembers the timesteps asked."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: int) -> Tensor:
        self.asked.append(t)
        return (0.5 + t / 1000) * torch.tanh(0.7 * x + 0.4 * x.roll(1, dims=-1) - 0.1)


class LinearDenoiser(Denoiser):
    """eps = k x."""

    def __init__(self, k: float, channels: int = 1) -> None:
        super().__init__()
        self.k, self.channels = k, channels

    def forward(self, x: Tensor, t: int) -> Tensor:
        return self.k * x


def tiny_unet(
    channels: int = 1, size: int = 8, width: int = 8, seed: int = 0, classes: int | None = None
) -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(width, 2 * width),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            num_class_embeds=classes,
        )


def tiny_denoiser(channels: int = 1, size: int = 8, dtype: torch.dtype = torch.float32) -> DiffusersDenoiser:
    return DiffusersDenoiser(tiny_unet(channels, size)).to(dtype)


class TinyNetwork(nn.Module):
    """Two smooth convolution blocks and a head."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.SiLU())
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.SiLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(x)).mean(dim=(2, 3)))


def tiny_classifier(
    channels: int = 1, classes: int = 10, dtype: torch.dtype = torch.float32, seed: int = 1
) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyNetwork(channels, classes)
        with torch.no_grad():  # pooled features are small: a steeper head gives losses that depend on the image
            network.head.weight.mul_(20.0)
    return Classifier(network, [0.4] * channels, [0.3] * channels).eval().requires_grad_(False).to(dtype)


class QueueDraws:
    """Noise in the order in which it is asked for, purpose by purpose; a reference loop asks ``noise`` for the same.

    Args:
        shape: of every noise tensor.
        seed: of all of it.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.shape, self.seed = shape, seed
        self.count: dict[str, int] = {}
        self.special: dict[tuple[str, int], Tensor] = {}

    def in_round(self, number: int, T: int) -> "QueueDraws":
        return self

    def noise(self, purpose: str, number: int) -> Tensor:
        if (purpose, number) in self.special:
            return self.special[purpose, number]
        key = {"diffuse": 0, "step": 1, "resample": 2, "single": 3}[purpose]
        generator = torch.Generator().manual_seed(self.seed * 10_000_000 + key * 1_000_000 + number)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64)

    def normal_like(self, x: Tensor, purpose: str, step: int) -> Tensor:
        number = self.count.get(purpose, 0)
        self.count[purpose] = number + 1
        assert x.shape == self.shape
        return self.noise(purpose, number).to(x.dtype)


class RecordingDraws:
    """Real draws that remember under which keys they were asked, in all rounds."""

    def __init__(self, draws: Draws, keys: list[tuple[str, int]] | None = None) -> None:
        self.draws = draws
        self.keys: list[tuple[str, int]] = [] if keys is None else keys

    def in_round(self, number: int, T: int) -> "RecordingDraws":
        return RecordingDraws(self.draws.in_round(number, T), self.keys)

    def normal_like(self, x: Tensor, purpose: str, step: int) -> Tensor:
        self.keys.append((purpose, step + self.draws.offset))
        return self.draws.normal_like(x, purpose, step)


def rows(count: int, seed: int = 0, process: str = "defense", draw: int = 0) -> Draws:
    """Keys of ``count`` samples 0..count-1, one draw each."""
    return Draws(seed, process, torch.arange(count), torch.full((count,), draw))


def images(count: int, channels: int = 1, size: int = 8, dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    """Random images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)
