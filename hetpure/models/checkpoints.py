"""Reading other projects' checkpoints without running anything in them, and fitting what they hold to a network."""

import re
import warnings
import zipfile
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
        raise ConfigError(key, f"{path}: {one_line(error, 240)}") from None
    except Exception as error:  # of another network, almost anything
        raise ConfigError(key, f"{path}: holds no {content} ({type(error).__name__} {one_line(error, 120)})") from None


def one_line(error: Exception, length: int = 300) -> str:
    """An exception's message without line breaks, cut to a length; the exception's name where it has no message."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def read_file(path: str | Path) -> Any:
    """The content of a ``.safetensors`` or ``torch.save`` file: tensors, numbers, strings and containers of them.

    Raises:
        CheckpointError: where the file is damaged, or holds anything else (code among it, which is not run).
    """
    path = regular_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_archive(path)
        with warnings.catch_warnings(action="ignore"):  # of a pickle protocol, on a second line
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file raises almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if code := re.search(r"GLOBAL (\S+)", reason):
            raise CheckpointError(f"refused, it holds code ({code[1][:80]}); accepted: tensors only") from None
        if "Unsupported operand" in reason:
            other = "refused, it is a pickle that torch.save did not write"
            raise CheckpointError(f"{other}; accepted: files of torch.save or safetensors") from None
        if "weights_only" in reason or "Weights only" in reason:
            reason = "it holds more than tensors, or is damaged"
        raise CheckpointError(f"cannot be read as a checkpoint: {reason[:160]}") from None


def regular_file(path: str | Path) -> Path:
    """The path, unless it is a folder, or a pipe or device, whose reading may never end.

    Raises:
        CheckpointError: where it is.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"is {'a directory' if path.is_dir() else 'no regular file'}; accepted: a file")
    return path


def _check_archive(path: Path) -> None:
    """Refuses an archive that unpacks to more than its own size: torch.save compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise CheckpointError(f"is {path.stat().st_size} bytes, but unpacks to {size}; accepted: uncompressed")


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
    average = as_state(dict(zip(names, shadow, strict=False)))
    if len(names) != len(shadow) or any(weights[name].shape != value.shape for name, value in average.items()):
        tensors = f"the {len(shadow)} tensors of ema.shadow_params"
        raise CheckpointError(f"{tensors} do not fit the model's {len(names)} parameters")
    return {**weights, **average}


def as_state(content: Any) -> State:
    """``content`` if it is a state dict of ordinary tensors, without ``module.`` before its names.

    Raises:
        CheckpointError: where it is not.
    """
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if content == {} else f"a {type(content).__name__}"
        raise CheckpointError(f"holds no state dict, but {found}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"holds no state dict, but a {type(value).__name__} under {_shown(name)}")
        _check_ordinary(name, value)
    state = {name.removeprefix("module."): value for name, value in content.items()}
    if len(state) < len(content):
        raise CheckpointError("holds the same weight with and without module. before its name")
    return state


def _check_ordinary(name: str, value: Tensor) -> None:
    """Refuses tensors that are not stored number by number."""
    kinds = {
        "nested": value.is_nested,
        "quantized": value.is_quantized,
        "without data (meta)": value.is_meta,
        str(value.layout).removeprefix("torch."): value.layout != torch.strided,
    }
    kind = next((kind for kind, found in kinds.items() if found), None)
    if kind is None and (
        value.nbytes > value.untyped_storage().nbytes()
        or any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True))
    ):
        kind = "expanded, larger than its data"
    if kind is not None:
        raise CheckpointError(f"{_shown(name)} is {kind}; accepted: ordinary tensors")


def _shown(name: Any) -> str:
    return repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:77]}.."


def rename(name: str, rules: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    """A name rewritten by each rule in turn, a regular expression and its replacement."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def load_exactly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state dict whose names and shapes must all match, in the network's precision.

    The network may be on the meta device; the weights of a 1x1 convolution may be those of a linear layer.

    Raises:
        CheckpointError: see ``fitted``.
    """
    # Copies, laid out alike: kernels round differently where a tensor is a view, or a file's bytes are not aligned.
    network.load_state_dict(
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in fitted(network, state).items()},
        strict=False,
        assign=any(value.is_meta for value in network.state_dict().values()),
    )


def fitted(network: nn.Module, state: Mapping[str, Tensor]) -> State:
    """A state dict as the network takes it, in its shapes and precision; copied only where that changes it.

    Raises:
        CheckpointError: where names or shapes differ, or a weight is no ordinary tensor of finite numbers.
    """
    for name, value in state.items():
        _check_ordinary(name, value)
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
        "missing": sorted(k for k in own.keys() - state.keys() if not _is_counter(k)),
        "unexpected": sorted(state.keys() - own.keys()),
    }
    differences = {kind: names for kind, names in differences.items() if names}
    if differences:
        shown = 1 if len(differences) > 1 else 2
        parts = (
            f"{kind} {', '.join(name[:100] for name in names[:shown])}{' ..' * (len(names) > shown)}"
            for kind, names in differences.items()
        )
        raise CheckpointError(f"does not fit the network: {'; '.join(parts)}")
    if any(value.is_meta for value in own.values()):
        stored = sum({v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in state.values()}.values())
        if sum(v.nbytes for v in state.values()) > 2 * stored:
            raise CheckpointError("is a network larger than its file: most weights share their numbers")
    return {name: _converted(name, value, own[name]) for name, value in state.items()}


def _converted(name: str, value: Tensor, own: Tensor) -> Tensor:
    """A weight in the precision of the network's own, where it means the same in it."""
    if own.is_floating_point() and not (value.is_floating_point() and value.element_size() > 1):
        raise CheckpointError(f"{_shown(name)} holds {value.dtype}; accepted: floating-point numbers")
    converted = value.to(own.dtype)
    if not (own.is_floating_point() or _is_counter(name) or torch.equal(converted.to(value.dtype), value)):
        raise CheckpointError(f"{_shown(name)} holds {value.dtype} that are no {own.dtype}")
    finite = converted.isfinite()
    # A network may be built with infinities of its own, in an attention mask.
    if not finite.all() and (own.is_meta or not (finite | (converted == own)).all()):
        raise CheckpointError(f"{_shown(name)} holds numbers that are not finite")
    return converted


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
