"""openai/guided-diffusion's unconditional networks (``256x256_diffusion_uncond.pt``), as diffusers' ``UNet2DModel``.

The two are the same network under different names: residual blocks that also resample and are scaled and shifted by the
timestep, attention heads of 64 channels, cosines first in the embedding. The last convolution gives a mean and a
variance; only the mean is used. That project computes in half precision (``--use_fp16 True``), this one in single.
Facts: ``guided_diffusion/unet.py`` and the README's flags in https://github.com/openai/guided-diffusion.
"""

import re

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from hetpure.models.checkpoints import CheckpointError, State, load_exactly, read_file, sampling_weights
from hetpure.models.denoisers import DiffusersDenoiser

HEAD_CHANNELS = 64
"""Of that project's unconditional networks (``--num_head_channels 64``); the weights do not tell."""

ATTENTION_SIZE = 32
"""Side of the largest feature maps with attention (``--attention_resolutions 32,16,8``); tells the image size."""

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_LAYERS = {**_RESIDUAL, "norm": "group_norm", "proj_out": "to_out.0"}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def load_guided_diffusion(path: str) -> DiffusersDenoiser:
    """Loads such a state dict; the network's widths, blocks and attention are read off the weights.

    Raises:
        CheckpointError: see ``Format``.
    """
    state = sampling_weights(read_file(path))
    if "label_emb.weight" in state:
        raise CheckpointError("is class-conditional; accepted: unconditional networks")
    # The last block of each level of the way up but the top one ends with a residual block that upsamples.
    outputs = len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})
    ups = {name.split(".")[1] for name in state if re.match(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)}
    levels = len(ups) + 1
    blocks = outputs // levels - 1
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    attention = [f"{first}.1.qkv.weight" in state for first in firsts]
    widths = tuple(state[f"{first}.0.out_layers.3.weight"].shape[0] for first in firsts)
    embedding = state[f"{firsts[0]}.0.emb_layers.1.weight"].shape[0]
    with torch.device("meta"):
        unet = UNet2DModel(
            sample_size=ATTENTION_SIZE << attention.index(True) if any(attention) else None,
            in_channels=state["input_blocks.0.0.weight"].shape[1],
            out_channels=state["out.2.weight"].shape[0],
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attention)),
            layers_per_block=blocks,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift" if embedding == 2 * widths[0] else "default",
            attn_norm_num_groups=32,
            attention_head_dim=HEAD_CHANNELS,
        )
    load_exactly(unet, _to_diffusers(state, blocks))
    return DiffusersDenoiser(unet)


def _to_diffusers(state: State, blocks: int) -> State:
    renamed: State = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        block_name = re.fullmatch(r"(input|middle|output)_blocks?\.(?:(\d+)\.)?(\d)\.(.+)", module)
        if module in _ENDS or not block_name:
            renamed[f"{_ENDS.get(module, module)}.{kind}"] = value
            continue
        part, number, layer, rest = block_name[1], int(block_name[2] or 0), int(block_name[3]), block_name[4]
        list_name = "resnets" if rest in _RESIDUAL else "attentions"
        # On both ways a level has blocks + 1 entries: down, the last downsamples; up, the last may end with upsampling.
        level, block = divmod(number - (part == "input"), blocks + 1)
        if part == "middle":
            target = f"mid_block.{list_name}.{layer // 2}"
        elif part == "input":
            target = f"down_blocks.{level}.{'downsamplers.0' if block == blocks else f'{list_name}.{block}'}"
        elif rest in _RESIDUAL and layer > 0:
            target = f"up_blocks.{level}.upsamplers.0"
        else:
            target = f"up_blocks.{level}.{list_name}.{block}"
        if rest == "qkv":
            for letter, projection in zip("qkv", _split_heads(value), strict=True):
                renamed[f"{target}.to_{letter}.{kind}"] = projection
        else:
            renamed[f"{target}.{_LAYERS.get(rest, rest)}.{kind}"] = value
    return renamed


def _split_heads(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a joint projection whose rows come head by head: (3 C, ..) to three (C, ..)."""
    heads = value.reshape(-1, 3, min(HEAD_CHANNELS, len(value) // 3), *value.shape[1:])
    q, k, v = (heads[:, j].flatten(0, 1) for j in range(3))
    return q, k, v
