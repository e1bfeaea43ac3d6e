"""DDPM++ (Song et al. 2021, appendix H), the network of both score_sde's and EDM's CIFAR-10 checkpoints.

diffusers' ``UNet2DModel`` cannot represent it (residual sums are divided by sqrt(2), the way up has one attention layer
a level), but its blocks can: this file only puts them together. ``edm.py`` and ``score_sde.py`` read the two layouts.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from hetpure.errors import AbsentError, ConfigError
from hetpure.models.checkpoints import load_exactly
from hetpure.schedule import Schedule

SQRT2 = math.sqrt(2.0)
FORMAT = "hetpure DDPM++ 1"


class Conditioning(NamedTuple):
    """How a network F predicts the noise at one timestep: ``skip`` x(t) + ``out`` F(``scale`` x(t); ``label``)."""

    scale: float
    label: float
    skip: float
    out: float


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


class DDPMpp(nn.Module):
    """The network.

    Args:
        geometry: what it looks like.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        widths, levels = geometry.widths, len(geometry.widths)
        self.multiple = 2 ** (levels - 1)
        embedding = 4 * geometry.channels
        self.linear_1 = nn.Linear(geometry.channels, embedding)
        self.linear_2 = nn.Linear(embedding, embedding)
        self.conv_in = nn.Conv2d(geometry.image_channels, geometry.channels, 3, padding=1)
        skips, width = [geometry.channels], geometry.channels

        self.down = nn.ModuleList()
        for level in range(levels):
            stage = nn.Module()
            stage.blocks, stage.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(geometry.blocks):
                stage.blocks.append(_residual(width, widths[level], embedding))
                width = widths[level]
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
        for level in reversed(range(levels)):
            stage = nn.Module()
            stage.blocks, stage.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(geometry.blocks + 1):
                stage.blocks.append(_residual(width + skips.pop(), widths[level], embedding))
                width = widths[level]
            if geometry.attention[level]:
                stage.attentions.append(_attention(width))
            if level > 0:
                stage.resample = _residual(width, width, embedding, up=True)
            self.up.append(stage)

        self.norm_out = nn.GroupNorm(_groups(width), width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, geometry.image_channels, 3, padding=1)

    def forward(self, x: Tensor, label: float | Tensor) -> Tensor:
        """(B, C, H, W) and the noise level's label, one or (B,), to the network's output, (B, C, H, W)."""
        labels = label if isinstance(label, Tensor) else torch.full((len(x),), label, device=x.device)
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
            if hasattr(stage, "resample"):
                x = stage.resample(x, embedding)
                skips.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, embedding)), embedding)
        for stage in _stages(self.up):
            for block in stage.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
            for attention in stage.attentions:
                x = attention(x)
            if hasattr(stage, "resample"):
                x = stage.resample(x, embedding)
        return self.conv_out(silu(self.norm_out(x)))

    def in_order(self) -> Iterator[str]:
        """Names of the layers in the order of computation, which both public layouts share."""
        yield from ("linear_1", "linear_2", "conv_in")
        for way in ("down", "middle", "up"):
            if way == "middle":
                yield from ("middle.0", "middle.1", "middle.2")
                continue
            for number, stage in enumerate(_stages(self.get_submodule(way))):
                for index in range(len(stage.blocks)):
                    yield f"{way}.{number}.blocks.{index}"
                    if way == "down" and len(stage.attentions):
                        yield f"{way}.{number}.attentions.{index}"
                if way == "up" and len(stage.attentions):
                    yield f"{way}.{number}.attentions.0"
                if hasattr(stage, "resample"):
                    yield f"{way}.{number}.resample"
        yield from ("norm_out", "conv_out")


def _stages(way: Any) -> Iterator[Any]:
    # nn.Module's attributes are typed as tensors or modules; these are lists and an optional block.
    yield from way


def save_converted(network: DDPMpp, conditioning: Sequence[Conditioning], file: Path) -> None:
    """Writes safetensors: a network's weights, its geometry in the header, and ``conditioning``, (T, 4) doubles."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    tensors["conditioning"] = torch.tensor(conditioning, dtype=torch.float64)
    save_file(tensors, file, {"format": FORMAT, "geometry": json.dumps(dataclasses.asdict(network.geometry))})


def load_converted(file: Path) -> tuple[DDPMpp, list[Conditioning]]:
    """Reads what ``save_converted`` wrote.

    Raises:
        ConfigError: where the file is missing, damaged or something else.
    """
    if not file.is_file():
        raise AbsentError(f"denoiser.path: {file}: no such file")
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its header does not say {FORMAT!r}")
            geometry: dict[str, Any] = json.loads(header["geometry"])
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        conditioning = [Conditioning(*row) for row in weights.pop("conditioning").tolist()]
        if len(conditioning) != Schedule().T:
            raise ValueError(f"conditioning has {len(conditioning)} rows")
        with torch.device("meta"):
            network = DDPMpp(Geometry(**geometry))
    except Exception as error:  # a damaged file raises almost anything; each means: not loadable
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"denoiser.path: {file}: cannot be read; accepted is what `hetpure convert` wrote: {reason}"
        ) from None
    load_exactly(network, weights, file)
    return network, conditioning
