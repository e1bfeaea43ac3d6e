"""JPEG compression as a defense, with a smooth rounding for attackers (Shin & Song 2017)."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetpure.errors import require
from hetpure.noise import Draws
from hetpure.purification.base import Purifier

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""The standard's table K.1; rows are vertical frequencies."""

_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
CHROMINANCE = tuple(
    tuple(_CORNER[row][column] if row < 4 and column < 4 else 99 for column in range(8)) for row in range(8)
)
"""The standard's table K.2."""

_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class JPEG(Purifier):
    """JPEG without subsampling: 8x8 cosine transform, division by the quality's tables, rounding, and back.

    Colours and pixels are rounded to 8 bits, as in a file. Images of one channel are luminance alone. Edges that are no
    multiple of 8 are repeated outwards.

    Args:
        quality: 1 to 100, as libjpeg scales the standard's tables by it.
        rounding: ``hard`` is JPEG; its derivative is zero wherever it exists. ``cubic`` has a derivative, a surrogate
            for attackers (``attack.process.rounding=cubic``): coefficients become round(c) + (c - round(c))^3, and
            nothing else is rounded.
    """

    stochastic: bool = False
    differentiable: ClassVar[bool] = False

    def __init__(self, quality: int = 75, rounding: Literal["hard", "cubic"] = "hard") -> None:
        super().__init__()
        require(1 <= quality <= 100, "quality", quality, "1 to 100")
        self.rounding, self.quality = rounding, quality
        self.differentiable = rounding == "cubic"  # pyright: ignore[reportAttributeAccessIssue]

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        require(channels in (1, 3), "purifier.name", "jpeg", "images of 1 or 3 channels")
        to_ycc = x.new_tensor(_TO_YCC) if channels == 3 else x.new_ones(1, 1)
        planes = torch.einsum("ij,njhw->nihw", to_ycc, 255.0 * x)
        colours = x.new_tensor([0.0, 128.0, 128.0])[:channels, None, None]  # what a file adds to planes of colour
        planes = self._levels(planes + colours) - 128.0
        padded = functional.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
        tables = x.new_tensor((scaled(LUMINANCE, self.quality), *2 * (scaled(CHROMINANCE, self.quality),)))[:channels]
        blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (N, C, rows, columns, 8, 8)
        cosines, table = cosine_matrix(x), tables[:, None, None]
        scaled_down = cosines @ blocks @ cosines.T / table
        nearest = scaled_down.detach().round()
        coefficients = table * (nearest if self.rounding == "hard" else nearest + (scaled_down - nearest) ** 3)
        restored = cosines.T @ coefficients @ cosines
        planes = restored.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]
        planes = self._levels(planes + 128.0) - colours
        return self._levels(torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), planes)).clamp(0.0, 255.0) / 255.0

    def _levels(self, x: Tensor) -> Tensor:
        return x.round().clamp(0.0, 255.0) if self.rounding == "hard" else x


def scaled(table: tuple[tuple[int, ...], ...], quality: int) -> list[list[float]]:
    """A table at a quality, by libjpeg's rule: in whole numbers from 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [[float(min(max((entry * percent + 50) // 100, 1), 255)) for entry in row] for row in table]


def cosine_matrix(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of 8 values, (8, 8)."""
    rows = [[math.cos((2 * n + 1) * k * math.pi / 16) for n in range(8)] for k in range(8)]
    return like.new_tensor(rows) * like.new_tensor([math.sqrt(1 / 8)] + 7 * [0.5])[:, None]
