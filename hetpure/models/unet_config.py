"""What the config of a diffusers ``UNet2DModel`` may say: anything else is refused before the network is built."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hetpure.models.checkpoints import CheckpointError

LARGEST = 1_000_000
"""Of sizes in a config. A network's memory is bounded by its weight file, whose shapes must be the network's."""

LEAST_TENSORS = 20
"""A layer of a level has two residual blocks or more, down and up, each of ten tensors or more."""

BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D")
"""Kinds that need nothing but an image and a timestep."""


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    accepted: str

    def or_none(self) -> "_Rule":
        return _Rule(lambda value: value is None or self.holds(value), f"{self.accepted}, or null")


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _is_square(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] == value[1] and all(map(_is_count, value))


def _one_of(*accepted: Any) -> _Rule:
    words = ", ".join("null" if value is None else str(value) for value in accepted)
    return _Rule(lambda value: any(type(value) is type(a) and value == a for a in accepted), words)


def _blocks(accepted: tuple[str, ...]) -> _Rule:
    # Configs of early releases put UNetRes before the names.
    return _Rule(
        lambda value: isinstance(value, list) and all(str(v).removeprefix("UNetRes") in accepted for v in value),
        f"a list of {', '.join(accepted)}",
    )


_COUNT = _Rule(_is_count, f"a whole number from 1 to {LARGEST}")
_NUMBER = _Rule(_is_number, "a number")
_SWITCH = _Rule(lambda value: isinstance(value, bool), "true, false")

_RULES = {
    "_class_name": _one_of("UNet2DModel"),
    "sample_size": _Rule(lambda value: value is None or _is_count(value) or _is_square(value), "one side, or null"),
    "in_channels": _COUNT,
    "out_channels": _COUNT,
    "block_out_channels": _Rule(
        lambda value: isinstance(value, list) and len(value) > 0 and all(map(_is_count, value)),
        f"a list of whole numbers from 1 to {LARGEST}",
    ),
    "layers_per_block": _COUNT,
    "down_block_types": _blocks(BLOCKS),
    "up_block_types": _blocks(tuple(name.replace("Downsample", "Upsample").replace("Down", "Up") for name in BLOCKS)),
    "mid_block_type": _one_of("UNetMidBlock2D", None),
    "time_embedding_type": _one_of("positional", "learned"),  # fourier ones belong to variance-exploding schedules
    "time_embedding_dim": _COUNT.or_none(),
    "num_train_timesteps": _COUNT.or_none(),
    "class_embed_type": _one_of(None),
    "num_class_embeds": _COUNT.or_none(),
    "attention_head_dim": _COUNT.or_none(),
    "norm_num_groups": _COUNT.or_none(),
    "attn_norm_num_groups": _COUNT.or_none(),
    "norm_eps": _Rule(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "freq_shift": _NUMBER,
    "mid_block_scale_factor": _Rule(lambda value: _is_number(value) and value != 0, "a number that is not 0"),
    "dropout": _NUMBER,
    "downsample_padding": _one_of(0, 1),
    "downsample_type": _one_of("conv", "resnet"),
    "upsample_type": _one_of("conv", "resnet"),
    "resnet_time_scale_shift": _one_of("default", "scale_shift"),
    "act_fn": _Rule(lambda value: isinstance(value, str), "the name of a function"),
    "center_input_sample": _SWITCH,
    "flip_sin_to_cos": _SWITCH,
    "add_attention": _SWITCH,
}


def check_unet_config(config: Mapping[str, Any], tensors: int | float = math.inf) -> None:
    """Raises CheckpointError for a config that is no image denoiser's, or asks for more layers than there are weights.

    Args:
        config: the content of ``config.json``.
        tensors: how many there are in the weight file.
    """
    for key, rule in _RULES.items():
        if key in config and not rule.holds(config[key]):
            raise CheckpointError(f"config.json: {key} is {config[key]!r:.60}; accepted: {rule.accepted}")
    levels = len(config.get("block_out_channels", ())) or 4  # diffusers' default
    layers = levels * config.get("layers_per_block", 1)
    if layers * LEAST_TENSORS > tensors:
        raise CheckpointError(f"config.json asks for {layers} layers, but the weights are {tensors} tensors")
