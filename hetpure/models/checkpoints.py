"""Reading other projects' checkpoints without running anything in them, and fitting what they hold to a network."""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hetpure.config import resolve_path
from hetpure.errors import AbsentError, ConfigError

State = dict[str, Tensor]
Arguments = ParamSpec("Arguments")
Loaded = TypeVar("Loaded")


def loader_of(what: str) -> Callable[[Callable[Arguments, Loaded]], Callable[Arguments, Loaded]]:
    """For a function that loads a network from a path: errors over unexpected names and shapes become ConfigErrors.

    Args:
        what: the network that it accepts, for the message.
    """

    def decorate(load: Callable[Arguments, Loaded]) -> Callable[Arguments, Loaded]:
        @functools.wraps(load)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Loaded:
            try:
                return load(*args, **kwargs)
            except ConfigError:
                raise
            except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
                reason = f"{type(error).__name__} {' '.join(str(error).split())[:120]}"
                path = args[0] if args else kwargs.get("path")
                raise ConfigError(f"denoiser.path: {path}: holds no {what} ({reason})") from None

        return checked

    return decorate


def check_there(path: str, key: str, source: str | None = None) -> None:
    """Raises AbsentError where there is no such file or folder, and says where it can be had.

    Args:
        path: from a config.
        key: config key for the message.
        source: where it can be had: an address, or the command that makes it.
    """
    if not resolve_path(path).exists():
        raise AbsentError(f"{key}: {path}: no such file" + (f"; it comes from {source}" if source else ""))


def read_file(path: Path, key: str = "denoiser.path") -> Any:
    """What a ``.safetensors`` or ``torch.save`` file holds: tensors, numbers, strings and containers of them.

    Args:
        path: the file.
        key: config key for messages.

    Raises:
        ConfigError: where the file is missing, damaged, or holds anything else (code among it, which is not run).
    """
    if not path.is_file():
        raise AbsentError(f"{key}: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything; each means: not loadable
        reason = " ".join(str(error).split()) or type(error).__name__
        if found := re.search(r"GLOBAL (\S+)|Unsupported (?:global|operand|class)\S* (\S+)", reason):
            name = found[1] or found[2]
            raise ConfigError(f"{key}: {path}: refused, it holds code ({name}); accepted are tensors only") from None
        if "weights_only" in reason or "Weights only" in reason:
            reason = "it holds more than tensors, or is damaged"
        raise ConfigError(f"{key}: {path}: cannot be read as a checkpoint: {reason[:200]}") from None


def weights_in(content: Any, path: Path, buffers: Collection[str] = ()) -> State:
    """The weights that a training checkpoint means to be sampled with: its moving average where it holds one.

    Known are a bare state dict; ``{"state_dict": ..}``; ``{"model": .., "ema": ..}`` (score_sde_pytorch); and
    ``[model, optimizer, epoch, step, ema]`` (ermongroup/ddim). The average is a state dict, or ``shadow_params``: a
    list in the order of the model's parameters. DataParallel's ``module.`` is taken off.

    Args:
        content: of the file.
        path: of the file, for messages.
        buffers: names in the model's state dict that are no parameters.

    Raises:
        ConfigError: where there is no state dict inside.
    """
    model, ema = content, None
    if isinstance(content, list | tuple) and content:
        model, ema = content[0], content[-1] if len(content) > 4 else None
    elif isinstance(content, dict):
        model = next((content[k] for k in ("state_dict", "model") if isinstance(content.get(k), dict)), content)
        ema = content.get("ema")
    weights = state_dict(model, path)
    if isinstance(ema, dict) and isinstance(shadow := ema.get("shadow_params"), list):
        names = [name for name in weights if name not in buffers]
        if len(names) != len(shadow) or any(
            not isinstance(s, Tensor) or weights[n].shape != s.shape for n, s in zip(names, shadow, strict=True)
        ):
            raise ConfigError(
                f"denoiser.path: {path}: the {len(shadow)} tensors of ema.shadow_params do not fit the "
                f"model's {len(names)} parameters"
            )
        return {**weights, **dict(zip(names, shadow, strict=True))}
    return {**weights, **state_dict(ema, path)} if isinstance(ema, dict) else weights


def state_dict(content: Any, path: Path, key: str = "denoiser.path") -> State:
    """``content`` if it is a state dict, without ``module.``; ConfigError if not."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(f"{key}: {path}: holds no state dict")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> State:
    """Keys rewritten by the first rule (a regular expression and its replacement) that matches their beginning."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            new, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                name = new
                break
        renamed[name] = value
    return renamed


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, key: str = "denoiser.path") -> None:
    """Loads a state dict, every key and shape matching; in the network's precision.

    Args:
        network: on the meta device, or with weights.
        state: its weights.
        path: of the file, for messages.
        key: config key for messages.

    Raises:
        ConfigError: where keys or shapes differ.
    """
    own = network.state_dict()
    shared = sorted(own.keys() & state.keys())
    different = [f"{k}: file {list(state[k].shape)}, network {list(own[k].shape)}" for k in shared
                 if state[k].shape != own[k].shape]  # fmt: skip
    # Counters of batches seen were not always saved and change no output.
    missing = sorted(k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked"))
    unexpected = sorted(state.keys() - own.keys())
    if different or missing or unexpected:
        parts = [f"{what} {', '.join(keys[:3])}{' ..' if len(keys) > 3 else ''}" for what, keys in
                 (("other shapes", different), ("missing", missing), ("unexpected", unexpected)) if keys]  # fmt: skip
        raise ConfigError(f"{key}: {path} does not fit the network: {'; '.join(parts)}")
    # Copies, laid out alike: kernels round differently where a tensor is a view, or a file's bytes are not aligned.
    network.load_state_dict(
        {k: v.to(own[k].dtype, copy=True).contiguous() for k, v in state.items()},
        strict=False,
        assign=any(value.is_meta for value in own.values()),
    )
