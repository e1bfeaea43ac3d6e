"""Reading other projects' checkpoints without running anything in them, and fitting what they hold to a network."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hetpure.config import exists, resolve_path
from hetpure.errors import AbsentError, ConfigError

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A file whose content cannot be used; the message says why and names no file."""


def existing_path(path: str, key: str, source: str | None = None) -> Path:
    """Resolves the path under a config key; ``source`` is an address, or the command that makes the file.

    Raises:
        AbsentError: where there is no such file or folder.
    """
    resolved = resolve_path(path)
    if not exists(resolved):
        origin = f"; it comes from {source}" if source else ""
        raise AbsentError(key, f"{path}: no such file{origin}")
    return resolved


@contextmanager
def reading(path: str | Path, key: str, content: str) -> Iterator[None]:
    """Turns any error that reading a checkpoint, or fitting it to its network, raises into a ConfigError.

    Its message says that the file, under this config key, holds no such ``content``.
    """
    try:
        yield
    except ConfigError:
        raise
    except CheckpointError as error:
        raise ConfigError(key, f"{path}: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(key, f"{path}: holds no {content} ({type(error).__name__} {one_line(error, 120)})") from None


def one_line(error: Exception, length: int = 300) -> str:
    """An exception's message without line breaks, cut to a length; the exception's name where it has no message."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def read_file(path: str | Path) -> Any:
    """The content of a ``.safetensors`` or ``torch.save`` file: tensors, numbers, strings and containers of them.

    Raises:
        CheckpointError: where the file is damaged, or holds anything else (code among it, which is not run).
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if code := re.search(r"GLOBAL (\S+)|Unsupported (?:global|operand|class)\S* (\S+)", reason):
            raise CheckpointError(f"refused, it holds code ({code[1] or code[2]}); accepted: tensors only") from None
        if "weights_only" in reason or "Weights only" in reason:
            reason = "it holds more than tensors, or is damaged"
        raise CheckpointError(f"cannot be read as a checkpoint: {reason[:200]}") from None


def sampling_weights(content: Any, buffers: Collection[str] = ()) -> State:
    """The weights that a training checkpoint is meant to be sampled with: its moving average where it holds one.

    Accepted are a bare state dict; ``{"state_dict": ..}``; ``{"model": .., "ema": ..}`` (score_sde_pytorch); and
    ``[model, optimizer, epoch, step, ema]`` (ermongroup/ddim). The average is a state dict, or ``shadow_params``: a
    list in the order of the model's parameters. DataParallel's ``module.`` is taken off.

    Args:
        content: of the file.
        buffers: names in the model's state dict that are no parameters.

    Raises:
        CheckpointError: where there is no state dict inside.
    """
    model, ema = content, None
    if isinstance(content, list | tuple) and content:
        model, ema = content[0], content[-1] if len(content) > 4 else None
    elif isinstance(content, dict):
        model = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), dict)), content)
        ema = content.get("ema")
    weights = as_state(model)
    if not isinstance(ema, dict):
        return weights
    if not isinstance(shadow := ema.get("shadow_params"), list):
        return {**weights, **as_state(ema)}
    names = [name for name in weights if name not in buffers]
    if len(names) != len(shadow) or any(
        not isinstance(s, Tensor) or weights[n].shape != s.shape for n, s in zip(names, shadow, strict=True)
    ):
        tensors = f"the {len(shadow)} tensors of ema.shadow_params"
        raise CheckpointError(f"{tensors} do not fit the model's {len(names)} parameters")
    return {**weights, **dict(zip(names, shadow, strict=True))}


def as_state(content: Any) -> State:
    """``content`` if it is a state dict, without ``module.`` before its names; CheckpointError if not."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError("holds no state dict")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def rename(name: str, rules: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    """A name rewritten by each rule in turn, a regular expression and its replacement."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def load_exactly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state dict whose names and shapes must all match, in the network's precision.

    The network may be on the meta device; the weights of a 1x1 convolution may be those of a linear layer.

    Raises:
        CheckpointError: where names or shapes differ.
    """
    own = network.state_dict()
    linear = {k for k, v in state.items() if k in own and own[k].ndim == 2 and v.shape[2:].numel() == 1 and v.ndim > 2}
    state = {k: v.flatten(1) if k in linear else v for k, v in state.items()}
    differences = {
        "other shapes": [
            f"{k}: file {list(state[k].shape)}, network {list(own[k].shape)}"
            for k in sorted(own.keys() & state.keys())
            if state[k].shape != own[k].shape
        ],
        # Counters of batches seen were not always saved and change no output.
        "missing": sorted(k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked")),
        "unexpected": sorted(state.keys() - own.keys()),
    }
    differences = {kind: names for kind, names in differences.items() if names}
    if differences:
        parts = (f"{kind} {', '.join(names[:3])}{' ..' * (len(names) > 3)}" for kind, names in differences.items())
        raise CheckpointError(f"does not fit the network: {'; '.join(parts)}")
    # Copies, laid out alike: kernels round differently where a tensor is a view, or a file's bytes are not aligned.
    network.load_state_dict(
        {k: v.to(own[k].dtype, copy=True).contiguous() for k, v in state.items()},
        strict=False,
        assign=any(value.is_meta for value in own.values()),
    )
