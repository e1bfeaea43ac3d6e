"""DDPM++ (Song et al. 2021, appendix H), the network of both score_sde's and EDM's CIFAR-10 checkpoints.

diffusers' ``UNet2DModel`` cannot represent it (residual sums are divided by sqrt(2), the way up has one attention layer
a level), but its blocks can: this file only puts them together. ``edm.py`` and ``score_sde.py`` read the two layouts.
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from hetpure.models.checkpoints import CheckpointError, State, load_exactly, one_line, regular_file
from hetpure.models.denoisers import LINEAR_VP, Conditioning, ContinuousDenoiser

SQRT2 = math.sqrt(2.0)
FORMAT = "hetpure DDPM++ 1"

ATTENTION_SIZE = 16
"""Side of the feature maps with attention in score_sde's CIFAR-10 configs; tells the image size."""


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


def _residual(before: int, after: int, embedding: int, **resample: bool) -> ResnetBlock2D:
    options: dict[str, Any] = {"eps": 1e-6, "output_scale_factor": SQRT2, **resample}
    if resample or before != after:
        options["use_in_shortcut"] = True
    if resample:
        options["kernel"] = "sde_vp"
    sizes = {"in_channels": before, "out_channels": after, "temb_channels": embedding}
    return ResnetBlock2D(**sizes, groups=_groups(before), groups_out=_groups(after), **options)


def _attention(channels: int) -> Attention:
    options: dict[str, Any] = {"eps": 1e-6, "rescale_output_factor": SQRT2, "norm_num_groups": _groups(channels)}
    options |= dict.fromkeys(("residual_connection", "bias", "upcast_softmax", "_from_deprecated_attn_block"), True)
    return Attention(channels, heads=1, dim_head=channels, **options)


class Stage(nn.Module):
    """The blocks of one resolution on the way down or up; ``resample`` leads to the next resolution."""

    def __init__(self, blocks: Sequence[nn.Module], attentions: int, width: int, resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(_attention(width) for _ in range(attentions))
        self.resample = resample


class DDPMpp(nn.Module):
    """The network."""

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

        self.down: Any = nn.ModuleList()
        for level, (after, attention) in enumerate(zip(geometry.widths, geometry.attention, strict=True)):
            blocks = [_residual(before, after, embedding) for before in (width, *[after] * (geometry.blocks - 1))]
            resample = _residual(after, after, embedding, down=True) if level < levels - 1 else None
            self.down.append(Stage(blocks, attention * geometry.blocks, after, resample))
            skips += [after] * (geometry.blocks + (resample is not None))
            width = after

        middle = _residual(width, width, embedding), _attention(width), _residual(width, width, embedding)
        self.middle = nn.ModuleList(middle)

        self.up: Any = nn.ModuleList()
        for level in reversed(range(levels)):
            blocks = []
            for _ in range(geometry.blocks + 1):
                blocks.append(_residual(width + skips.pop(), geometry.widths[level], embedding))
                width = geometry.widths[level]
            resample = _residual(width, width, embedding, up=True) if level > 0 else None
            self.up.append(Stage(blocks, int(geometry.attention[level]), width, resample))

        self.norm_out = nn.GroupNorm(_groups(width), width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, geometry.image_channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) and the labels of their noise levels, (B,), to the network's output, (B, C, H, W)."""
        embedding = get_timestep_embedding(labels, self.geometry.channels).to(x.dtype)
        embedding = self.linear_2(silu(self.linear_1(embedding)))
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down:
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
        for stage in self.up:
            for block in stage.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
            for attention in stage.attentions:
                x = attention(x)
            if stage.resample is not None:
                x = stage.resample(x, embedding)
        return self.conv_out(silu(self.norm_out(x)))

    def in_order(self) -> list[str]:
        """Names of the layers in the order of computation, which both public layouts share."""
        names = [name for name, module in self.named_modules() if isinstance(module, ResnetBlock2D | Attention)]
        # On the way down each block has its attention layer, on the way up there is one behind all blocks.
        blocks = sorted(names, key=lambda name: names.index(re.sub(r"(down\.\d+)\.attentions", r"\1.blocks", name)))
        return ["linear_1", "linear_2", "conv_in", *blocks, "norm_out", "conv_out"]


def from_layers(layers: Sequence[State], image_size: int | None = None) -> DDPMpp:
    """The network with these weights; its geometry is read off their shapes.

    Args:
        layers: the weights of each layer, in the order of computation, named as in the layer.
        image_size: side of the images; None to tell it from the largest feature maps with attention.
    """
    kinds = "".join(_kind(layer) for layer in layers)
    levels = kinds.count("d") // 2 + 1
    firsts = [3, *(down.end() for down in re.finditer("d", kinds))][:levels]
    attention = tuple(kinds[first + 1] == "a" for first in firsts)
    if image_size is None and any(attention):
        image_size = ATTENTION_SIZE << attention.index(True)
    channels, image_channels = layers[2]["weight"].shape[:2]
    widths = tuple(len(layers[first]["conv1.weight"]) for first in firsts)
    blocks = (kinds.count("r") - levels - 2) // (2 * levels)  # levels * (2 * blocks + 1), and two in the middle
    with torch.device("meta"):
        network = DDPMpp(Geometry(image_channels, image_size, channels, widths, blocks, attention))
    named = zip(network.in_order(), layers, strict=True)
    load_exactly(network, {f"{name}.{key}": value for name, layer in named for key, value in layer.items()})
    return network


def _kind(layer: State) -> str:
    """One letter: (a)ttention, (r)esidual, a residual layer that goes (d)own or up a level, (o)ther."""
    if "conv1.weight" not in layer:
        return "a" if "to_q.weight" in layer else "o"
    after, before = layer["conv1.weight"].shape[:2]
    return "d" if after == before and "conv_shortcut.weight" in layer else "r"


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
        with safe_open(regular_file(path), "pt") as opened:
            header = opened.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its header does not say {FORMAT!r}")
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        conditioning = [Conditioning(*row) for row in weights.pop("conditioning").tolist()]
        if len(conditioning) != LINEAR_VP.T or not all(math.isfinite(value) for row in conditioning for value in row):
            raise ValueError(f"conditioning is not {LINEAR_VP.T} rows of finite numbers")
        geometry = Geometry(**json.loads(header["geometry"]))
        _check_geometry(geometry, len(weights))
        with torch.device("meta"):
            network = DDPMpp(geometry)
    except Exception as error:  # a damaged file raises almost anything
        raise CheckpointError(
            f"cannot be read; accepted: what `hetpure convert` wrote: {one_line(error, 200)}"
        ) from None
    load_exactly(network, weights)
    return ContinuousDenoiser(network, conditioning)


def _check_geometry(geometry: Geometry, tensors: int) -> None:
    """Refuses a header's numbers that no network has, or that ask for more blocks than there are weights."""
    counts = [geometry.image_channels, geometry.channels, geometry.blocks, *geometry.widths]
    if geometry.image_size is not None:
        counts.append(geometry.image_size)
    if not all(type(count) is int and count > 0 for count in counts) or not geometry.widths:
        raise ValueError("its geometry is not of whole numbers above 0")
    if len(geometry.widths) != len(geometry.attention) or not all(type(a) is bool for a in geometry.attention):
        raise ValueError("its geometry does not say which levels have attention")
    if len(geometry.widths) * geometry.blocks > tensors:
        raise ValueError(f"its geometry has more blocks than the file has tensors, {tensors}")
