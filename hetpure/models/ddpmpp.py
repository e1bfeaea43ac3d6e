"""DDPM++ (Song et al. 2021, appendix H), the network of both score_sde's and EDM's CIFAR-10 checkpoints.

diffusers' ``UNet2DModel`` cannot represent it (residual sums are divided by sqrt(2), the way up has one attention layer
a level), but its blocks can: this file only puts them together. ``edm.py`` and ``score_sde.py`` read the two layouts.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from hetpure.models.checkpoints import CheckpointError, load_exactly, one_line
from hetpure.models.denoisers import LINEAR_VP, Conditioning, ContinuousDenoiser

SQRT2 = math.sqrt(2.0)
FORMAT = "hetpure DDPM++ 1"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a DDPM++ network looks like.

    Attributes:
        image_channels: C.
        image_size: side of the images it was trained on; None where unknown.
        channels: after the first convolution, and of the noise level's embedding.
        widths: channels of each level, full resolution first.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: which levels have attention.
    """

    image_channels: int
    image_size: int | None
    channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]


def _groups(channels: int) -> int:
    return min(channels // 4, 32)


def _residual(before: int, after: int, embedding: int, up: bool = False, down: bool = False) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=before,
        out_channels=after,
        temb_channels=embedding,
        groups=_groups(before),
        groups_out=_groups(after),
        eps=1e-6,
        output_scale_factor=SQRT2,
        kernel="sde_vp" if up or down else None,  # pyright: ignore[reportArgumentType]
        use_in_shortcut=True if up or down or before != after else None,
        up=up,
        down=down,
    )


def _attention(channels: int) -> Attention:
    return Attention(
        channels,
        heads=1,
        dim_head=channels,
        rescale_output_factor=SQRT2,
        eps=1e-6,
        norm_num_groups=_groups(channels),
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    )


class Stage(nn.Module):
    """The blocks of one resolution on the way down or up; ``resample`` leads to the next resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        self.resample: ResnetBlock2D | None = None


class DDPMpp(nn.Module):
    """The network.

    Args:
        geometry: what it looks like.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        levels = len(geometry.widths)
        self.multiple = 2 ** (levels - 1)
        embedding = 4 * geometry.channels
        self.linear_1 = nn.Linear(geometry.channels, embedding)
        self.linear_2 = nn.Linear(embedding, embedding)
        self.conv_in = nn.Conv2d(geometry.image_channels, geometry.channels, 3, padding=1)
        skips, width = [geometry.channels], geometry.channels

        self.down = nn.ModuleList()
        for level, after in enumerate(geometry.widths):
            stage = Stage()
            for _ in range(geometry.blocks):
                stage.blocks.append(_residual(width, after, embedding))
                width = after
                if geometry.attention[level]:
                    stage.attentions.append(_attention(width))
                skips.append(width)
            if level < levels - 1:
                stage.resample = _residual(width, width, embedding, down=True)
                skips.append(width)
            self.down.append(stage)

        self.middle = nn.ModuleList(
            [_residual(width, width, embedding), _attention(width), _residual(width, width, embedding)]
        )

        self.up = nn.ModuleList()
        for level, after in reversed(list(enumerate(geometry.widths))):
            stage = Stage()
            for _ in range(geometry.blocks + 1):
                stage.blocks.append(_residual(width + skips.pop(), after, embedding))
                width = after
            if geometry.attention[level]:
                stage.attentions.append(_attention(width))
            if level > 0:
                stage.resample = _residual(width, width, embedding, up=True)
            self.up.append(stage)

        self.norm_out = nn.GroupNorm(_groups(width), width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, geometry.image_channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) and the labels of their noise levels, (B,), to the network's output, (B, C, H, W)."""
        embedding = get_timestep_embedding(labels, self.geometry.channels).to(x.dtype)
        embedding = self.linear_2(silu(self.linear_1(embedding)))
        x = self.conv_in(x)
        skips = [x]
        for stage in _stages(self.down):
            for index, block in enumerate(stage.blocks):
                x = block(x, embedding)
                if len(stage.attentions):
                    x = stage.attentions[index](x)
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x, embedding)
                skips.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, embedding)), embedding)
        for stage in _stages(self.up):
            for block in stage.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
            for attention in stage.attentions:
                x = attention(x)
            if stage.resample is not None:
                x = stage.resample(x, embedding)
        return self.conv_out(silu(self.norm_out(x)))

    def in_order(self) -> Iterator[str]:
        """Names of the layers in the order of computation, which both public layouts share."""
        yield from ("linear_1", "linear_2", "conv_in")
        for number, stage in enumerate(_stages(self.down)):
            for index in range(len(stage.blocks)):
                yield f"down.{number}.blocks.{index}"
                if len(stage.attentions):
                    yield f"down.{number}.attentions.{index}"
            if stage.resample is not None:
                yield f"down.{number}.resample"
        yield from ("middle.0", "middle.1", "middle.2")
        for number, stage in enumerate(_stages(self.up)):
            yield from (f"up.{number}.blocks.{index}" for index in range(len(stage.blocks)))
            yield from (f"up.{number}.attentions.{index}" for index in range(len(stage.attentions)))
            if stage.resample is not None:
                yield f"up.{number}.resample"
        yield from ("norm_out", "conv_out")


def _stages(way: nn.ModuleList) -> Iterator[Stage]:
    return cast(Iterator[Stage], iter(way))


def save_converted(denoiser: ContinuousDenoiser, file: Path) -> None:
    """Writes safetensors: a network's weights, its geometry in the header, and ``conditioning``, (T, 4) doubles."""
    network = denoiser.network
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    tensors["conditioning"] = torch.tensor(denoiser.conditioning, dtype=torch.float64)
    save_file(tensors, file, {"format": FORMAT, "geometry": json.dumps(dataclasses.asdict(network.geometry))})


def load_converted(path: str | Path) -> ContinuousDenoiser:
    """Reads what ``save_converted`` wrote.

    Raises:
        CheckpointError: where the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its header does not say {FORMAT!r}")
            geometry: dict[str, Any] = json.loads(header["geometry"])
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        conditioning = [Conditioning(*row) for row in weights.pop("conditioning").tolist()]
        if len(conditioning) != LINEAR_VP.T:
            raise ValueError(f"conditioning has {len(conditioning)} rows")
        with torch.device("meta"):
            network = DDPMpp(Geometry(**geometry))
    except Exception as error:  # a damaged file raises almost anything
        raise CheckpointError(
            f"cannot be read; accepted: what `hetpure convert` wrote: {one_line(error, 200)}"
        ) from None
    load_exactly(network, weights)
    return ContinuousDenoiser(network, conditioning)
