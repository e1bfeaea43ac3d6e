"""NVlabs/edm's unconditional DDPM++ pickles (``edm-cifar10-32x32-uncond-vp.pkl``, ``baseline-cifar10-..-vp.pkl``).

They hold a denoiser D(y; sigma) of images with noise added, y = x(0) + sigma n: a network F inside one of two sets of
coefficients, ``EDMPrecond`` (the proposed ones) or ``VPPrecond`` (the baseline's). On our schedule
y = x(t) / sqrt(abar) and sigma = sqrt((1 - abar) / abar), and the noise is n = (y - D) / sigma, which is linear in x(t)
and F: see ``precondition``.

Facts: ``training/networks.py`` and ``torch_utils/persistence.py`` of https://github.com/NVlabs/edm, and table 1 of
Karras et al. 2022.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hetpure.models.checkpoints import CheckpointError, State
from hetpure.models.ddpmpp import from_layers, load_converted
from hetpure.models.denoisers import LINEAR_VP, Conditioning, ContinuousDenoiser
from hetpure.models.inert_pickle import Inert, read_inert

_NAMES = {
    "norm0": "norm1",
    "conv0": "conv1",
    "affine": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "skip": "conv_shortcut",
    "norm2": "group_norm",
    "proj": "to_out.0",
}


def load_edm(path: str) -> ContinuousDenoiser:
    """Loads such a pickle as data (see ``inert_pickle``), or what ``hetpure convert`` made of it.

    The geometry of the network F is read off the names and shapes of its weights.

    Args:
        path: the ``.pkl`` file, or the converted ``.safetensors``.

    Raises:
        CheckpointError: see ``Format``.
    """
    if Path(path).suffix == ".safetensors":
        return load_converted(path)
    content = read_inert(path)
    outer = content.get("ema") if isinstance(content, dict) else content
    model = outer.children.get("model") if isinstance(outer, Inert) else None
    if not isinstance(outer, Inert) or model is None or model.class_name != "SongUNet":
        found = " with ".join(module.class_name for module in (outer, model) if isinstance(module, Inert))
        raise CheckpointError(f"holds {found or 'no network'}; accepted: a SongUNet in VPPrecond or EDMPrecond")
    conditioning = precondition(outer.class_name, outer.state)
    state = model.tensors()
    if outer.state.get("label_dim") or any(name.startswith("map_label.") for name in state):
        raise CheckpointError("is class-conditional; accepted: unconditional networks")
    if any("_aux_" in name and "_aux_norm" not in name and "_aux_conv" not in name for name in state) or any(
        name.endswith("resample_filter") and value.shape[-1] != 2 for name, value in state.items()
    ):
        raise CheckpointError("is an NCSN++ network; accepted: DDPM++ (--arch=ddpmpp)")
    sizes = [int(size[1]) for name in state if (size := re.match(r"enc\.(\d+)x", name))]
    return ContinuousDenoiser(from_layers(_layers(state), max(sizes)), conditioning)


def precondition(name: str, settings: Mapping[str, Any]) -> list[Conditioning]:
    """How the noise in x(t) follows from F, for each timestep t.

    VPPrecond: D = y - sigma F(x(t); 999 u), u the continuous time of noise level sigma, so the noise is F itself.
    EDMPrecond: D = c_skip y + c_out F(c_in y; ln(sigma) / 4), so it is sigma / (sigma^2 + s^2) y - s /
    sqrt(sigma^2 + s^2) F, with s = ``sigma_data``.

    Raises:
        CheckpointError: for another name, or missing attributes.
    """
    if name not in _CONDITIONING:
        raise CheckpointError(f"holds {name}; accepted: VPPrecond and EDMPrecond")
    try:
        return [_CONDITIONING[name](LINEAR_VP.alpha_bar(t), settings) for t in range(LINEAR_VP.T)]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"holds {name} without {error}") from None


def _vp_conditioning(abar: float, settings: Mapping[str, Any]) -> Conditioning:
    beta_d, beta_min = float(settings["beta_d"]), float(settings["beta_min"])
    # In single precision, as in that project: near t = 0 that moves labels by up to 3e-4, and outputs by up to 1e-4.
    sigma = torch.tensor(math.sqrt((1.0 - abar) / abar), dtype=torch.float32)
    time = ((beta_min**2 + 2.0 * beta_d * (1.0 + sigma**2).log()).sqrt() - beta_min) / beta_d
    return Conditioning(scale=1.0, label=float((float(settings["M"]) - 1.0) * time), skip=0.0, out=1.0)


def _edm_conditioning(abar: float, settings: Mapping[str, Any]) -> Conditioning:
    sigma, data = math.sqrt((1.0 - abar) / abar), float(settings["sigma_data"])
    spread = math.sqrt(sigma**2 + data**2)
    return Conditioning(
        scale=1.0 / (spread * math.sqrt(abar)),
        label=math.log(sigma) / 4.0,
        skip=sigma / (spread**2 * math.sqrt(abar)),
        out=-data / spread,
    )


_CONDITIONING = {"VPPrecond": _vp_conditioning, "EDMPrecond": _edm_conditioning}


def _layers(state: State) -> list[State]:
    """The weights of each layer by diffusers' names; in that project a block and its attention are one module."""
    layers: dict[str, State] = {}
    for name, value in state.items():
        # Constants of the resampling (which is averaging and repeating); labels of an augmentation that is not used.
        if name.endswith("resample_filter") or name.startswith("map_augment."):
            continue
        *module, kind = name.split(".")
        depth = 2 if module[0] in ("enc", "dec") else 1
        part = ".".join(module[depth:])
        layer = layers.setdefault(".".join(module[:depth]) + " attention" * (part in ("norm2", "qkv", "proj")), {})
        if part == "qkv":  # channel 3 c + j is channel c of query, key or value
            layer |= {f"to_{letter}.{kind}": value[j::3] for j, letter in enumerate("qkv")}
        else:
            layer[f"{_NAMES.get(part, part)}.{kind}" if part else kind] = value
    return list(layers.values())
