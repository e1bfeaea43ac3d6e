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

from hetpure.models.checkpoints import State, read_file, sampling_weights
from hetpure.models.ddpmpp import from_layers, load_converted
from hetpure.models.denoisers import LINEAR_VP, Conditioning, ContinuousDenoiser

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

    Widths, blocks and attention are read off the weights. What ``hetpure convert`` made of it keeps its labels.

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
    network = from_layers([_named(modules[number]) for number in sorted(modules)])
    return ContinuousDenoiser(network, [Conditioning(1.0, label, 0.0, 1.0) for label in labels])


def _named(layer: State) -> State:
    """A layer's weights by diffusers' names, those of its 1x1 layers (NIN) transposed as linear ones have them."""
    names = _ATTENTION if "NIN_3.W" in layer else _RESIDUAL
    renamed: State = {}
    for key, value in layer.items():
        part, dot, kind = key.rpartition(".")
        kind = {"W": "weight", "b": "bias"}.get(kind, kind)
        renamed[f"{names.get(part, part)}{dot}{kind}"] = value.T if key.endswith(".W") else value
    return renamed
