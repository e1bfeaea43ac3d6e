"""score_sde_pytorch's continuous DDPM++ checkpoints (``checkpoint_8.pth``), as DiffPure and the paper's code use them.

The network is NCSN++ with ``configs/vp/cifar10_ddpmpp_deep_continuous.py``. It predicts the noise (its score is the
negative prediction over the noise's standard deviation), and is labelled with 999 times the continuous time.

Which label belongs to timestep t of the discrete schedule is a matter of choice. The paper's released code passes t
itself; so does ``score_sde``. ``score_sde_matched`` passes the label at which the continuous process, beta from 0.1 to
20, has this timestep's very noise level: about half a step more (0.92 at t = 0, 200.55 at t = 200).

Facts: ``models/ncsnpp.py``, ``models/layerspp.py``, ``models/ema.py`` of https://github.com/yang-song/score_sde_pytorch.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from hetpure.models.checkpoints import State, load_exactly, read_file, sampling_weights
from hetpure.models.ddpmpp import DDPMpp, Geometry, load_converted
from hetpure.models.denoisers import LINEAR_VP, Conditioning, ContinuousDenoiser

ATTENTION_SIZE = 16
"""Side of the feature maps with attention, in that project's CIFAR-10 configs; tells the image size."""

_RESIDUAL = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "time_emb_proj",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}
_ATTENTION = {"GroupNorm_0": "group_norm", "NIN_0": "to_q", "NIN_1": "to_k", "NIN_2": "to_v", "NIN_3": "to_out.0"}


def load_score_sde(path: str) -> ContinuousDenoiser:
    """Loads such a checkpoint's moving average (its plain weights where it holds none), timesteps labelled by number.

    Widths, blocks and attention are read off the weights.

    Args:
        path: the ``.pth`` file, or what ``hetpure convert`` made of it (which keeps its labels).

    Raises:
        CheckpointError: see ``Format``.
    """
    return _load(path, map(float, range(LINEAR_VP.T)))


def load_score_sde_matched(path: str) -> ContinuousDenoiser:
    """Like ``load_score_sde``, timesteps labelled by their noise level."""
    return _load(path, map(matched_label, range(LINEAR_VP.T)))


def matched_label(t: int) -> float:
    """999 u, with u in [0, 1] the continuous time whose noise level is timestep t's.

    The continuous process has beta(u) = 0.1 + 19.9 u, so its abar(u) is exp(-0.1 u - 19.9 u^2 / 2).
    """
    return 999.0 * (math.sqrt(0.1**2 - 2.0 * 19.9 * math.log(LINEAR_VP.alpha_bar(t))) - 0.1) / 19.9


def _load(path: str, labels: Iterable[float]) -> ContinuousDenoiser:
    if Path(path).suffix == ".safetensors":
        return load_converted(path)
    state = sampling_weights(read_file(path), buffers=("sigmas",))
    state.pop("sigmas", None)
    modules: dict[int, State] = {}
    for name, value in state.items():
        numbered = re.fullmatch(r"all_modules\.(\d+)\.(.+)", name)
        if not numbered:
            raise ValueError(f"{name} is unknown")
        modules.setdefault(int(numbered[1]), {})[numbered[2]] = value
    geometry = _geometry(modules)
    with torch.device("meta"):
        network = DDPMpp(geometry)
    renamed: State = {}
    for name, (_, module) in zip(network.in_order(), sorted(modules.items()), strict=False):
        for key, value in module.items():
            layer, _, kind = key.rpartition(".")
            names = _ATTENTION if "NIN_3.W" in module else _RESIDUAL
            kind, value = _nin(kind, value)
            renamed[f"{name}.{names.get(layer, layer)}.{kind}" if layer else f"{name}.{kind}"] = value
    load_exactly(network, renamed)
    return ContinuousDenoiser(network, [Conditioning(1.0, label, 0.0, 1.0) for label in labels])


def _nin(kind: str, value: Tensor) -> tuple[str, Tensor]:
    """That project's 1x1 layers as linear ones."""
    return ("weight", value.T) if kind == "W" else ("bias" if kind == "b" else kind, value)


def _geometry(modules: dict[int, State]) -> Geometry:
    """Reads the sequence of layers: two linear ones, a convolution, then residual, resampling and attention blocks."""
    ordered = [modules[number] for number in sorted(modules)]
    kinds, outs = [], []
    for module in ordered[3:]:
        if "Conv_1.weight" in module:
            after, before = module["Conv_0.weight"].shape[:2]
            kinds.append("resample" if after == before and "Conv_2.weight" in module else "residual")
            outs.append(after)
        else:
            kinds.append("attention" if "NIN_3.W" in module else "other")
            outs.append(0)
    levels = 1 + kinds.count("resample") // 2
    widths, attention, blocks, at = [], [], 0, 0
    # The way down ends before the middle: residual, attention, residual.
    while len(widths) < levels:
        widths.append(outs[at])
        attention.append(kinds[at + 1] == "attention")
        end = kinds.index("resample", at) if len(widths) < levels else at + blocks * (1 + attention[-1])
        blocks = blocks or kinds[at:end].count("residual")
        at = end + 1
    if levels < 2 or kinds[-2:] != ["other", "other"]:
        raise ValueError("an unknown order of layers")
    channels, image_channels = ordered[2]["weight"].shape[:2]
    size = ATTENTION_SIZE << attention.index(True) if any(attention) else None
    return Geometry(image_channels, size, channels, tuple(widths), blocks, tuple(attention))
