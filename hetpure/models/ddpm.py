"""Ho et al.'s DDPM network in ermongroup/ddim's PyTorch layout (also Lee & Kim's SVHN), as diffusers' ``UNet2DModel``.

The two are the same network under different names: group normalisation in 32 groups with eps 1e-6, sinusoidal embedding
with sines first, one attention head, downsampling padded on the right and below. Facts: ``models/diffusion.py``,
``models/ema.py`` and ``runners/diffusion.py`` of https://github.com/ermongroup/ddim.
"""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from hetpure.models.checkpoints import load_exactly, read_file, rename, sampling_weights
from hetpure.models.denoisers import DiffusersDenoiser

ATTENTION_SIZE = 16
"""Side of the feature maps with attention, in all of that project's configs; tells the image size from the weights."""

_NAMES = [
    (r"^temb\.dense\.0\.", "time_embedding.linear_1."),
    (r"^temb\.dense\.1\.", "time_embedding.linear_2."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^mid\.block_1\.", "mid_block.resnets.0."),
    (r"^mid\.block_2\.", "mid_block.resnets.1."),
    (r"^mid\.attn_1\.", "mid_block.attentions.0."),
    (r"^(down|up)\.(\d+)\.block\.", r"\1_blocks.\2.resnets."),
    (r"^(down|up)\.(\d+)\.attn\.", r"\1_blocks.\2.attentions."),
    (r"^(down|up)\.(\d+)\.(down|up)sample\.", r"\1_blocks.\2.\3samplers.0."),
    (r"\.temb_proj\.", ".time_emb_proj."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.([qkv])\.", r".to_\1."),
    (r"\.proj_out\.", ".to_out.0."),
]


def load_ddpm(path: str) -> DiffusersDenoiser:
    """Loads such a checkpoint: a state dict, or the list that its training saves, whose moving average is then taken.

    The number of levels, widths, blocks and attention are read off the weights.

    Raises:
        CheckpointError: see ``Format``.
    """
    state = sampling_weights(read_file(path))
    state.pop("logvar", None)  # that project's "bayesian" models learn a variance too
    levels = len({name.split(".")[1] for name in state if name.startswith("down.")})
    blocks = len({name.split(".")[3] for name in state if name.startswith("down.0.block.")})
    attention = [f"down.{level}.attn.0.q.weight" in state for level in range(levels)]
    with torch.device("meta"):
        unet = UNet2DModel(
            sample_size=ATTENTION_SIZE << attention.index(True) if any(attention) else None,
            in_channels=state["conv_in.weight"].shape[1],
            out_channels=state["conv_out.weight"].shape[0],
            block_out_channels=tuple(state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            layers_per_block=blocks,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            attention_head_dim=None,
        )
    # That project numbers the levels of the way up from the full resolution, diffusers in order of computation.
    reverse = (r"^up\.(\d+)\.", lambda up: f"up.{levels - 1 - int(up[1])}.")
    load_exactly(unet, {rename(name, [reverse, *_NAMES]): value for name, value in state.items()})
    return DiffusersDenoiser(unet)
