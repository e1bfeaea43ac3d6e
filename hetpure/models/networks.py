"""Networks from anywhere: an importable nn.Module by its name, and its weights from a file."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from hetpure.config import resolve_path
from hetpure.errors import ConfigError
from hetpure.models.checkpoints import load_exactly, read_file
from hetpure.models.wide_resnet import WideResNet


def import_network(name: str, arguments: Mapping[str, Any], section: str) -> nn.Module:
    """A network by the name of its class, trainable.

    Args:
        name: ``package.module:Class``, ``path/to/file.py:Class``, or a function that builds it.
        arguments: for the constructor.
        section: of the config, for messages.

    Raises:
        ConfigError: where it cannot be imported or built, or is no nn.Module.
    """
    kwargs = dict(arguments)
    try:
        network = _import_builder(name, section)(**kwargs)
    except ConfigError:
        raise
    except Exception as error:  # a user's class may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{section}.arguments: {name} cannot be built from {kwargs}: {reason}") from None
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{section}.name: {name} gives a {type(network).__name__}, accepted is an nn.Module")
    return network


def load_network(name: str, weights: str, arguments: Mapping[str, Any], section: str) -> nn.Module:
    """A network with its weights, frozen and in evaluation mode.

    Args:
        name: see ``import_network``.
        weights: state dict to load, ``.safetensors`` or a ``torch.save`` file (read with ``weights_only``).
        arguments: for the constructor.
        section: of the config, for messages.

    Raises:
        ConfigError: for a name, arguments or weights that cannot be used.
    """
    if ":" not in name:
        raise ConfigError(f"{section}.name: found {name!r}, accepted is package.module:Class or path/to/file.py:Class")
    network = import_network(name, arguments, section)
    load_weights(network, weights, f"{section}.weights")
    return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, path: str, key: str) -> None:
    """Loads a state dict into a network, every key matching.

    What wrappers put before every name is taken off: DataParallel's ``module.``, and the ``model.`` or ``0.`` of a
    network that was saved behind its normalisation.

    Args:
        network: the network.
        path: the file.
        key: config key for messages.

    Raises:
        ConfigError: where the file is missing or unreadable, or keys or shapes differ.
    """
    state = read_state_dict(resolve_path(path), key=key)
    state = {k.removeprefix("module."): v for k, v in state.items()}
    own = network.state_dict()
    for prefix in ("model.", "0."):
        if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    if isinstance(network, WideResNet):
        state = network.from_public_layout(state)
    load_exactly(network, state, path, key=key)


def read_state_dict(path: Path, key: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors or ``torch.save`` file; no code in it is run.

    Args:
        path: the file.
        key: config key for messages.

    Raises:
        ConfigError: where the file is missing or is no state dict.
    """
    state = read_file(path, key)
    for wrapper in ("state_dict", "model_state_dict", "model", "params"):
        state = state[wrapper] if isinstance(state, dict) and isinstance(state.get(wrapper), dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{key}: {path}: holds no state dict")
    return state


def _import_builder(name: str, section: str) -> Callable[..., Any]:
    module_name, _, class_name = name.rpartition(":")
    try:
        if module_name.endswith(".py"):
            path = resolve_path(module_name)
            # A name of its own: a user's net.py must not pass for a package called net, or for another folder's net.py.
            unique = f"hetpure_user_{hashlib.sha1(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
            spec = importlib.util.spec_from_file_location(unique, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[unique] = module
            spec.loader.exec_module(module)
        else:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(module_name)
    except Exception as error:  # a user's file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{section}.name: {name}: cannot import {module_name}: {reason}") from None
    found = getattr(module, class_name, None)
    is_class = isinstance(found, type) and issubclass(found, nn.Module)
    if not (is_class or inspect.isfunction(found)):
        raise ConfigError(f"{section}.name: {name}: {module_name} has no nn.Module class or function {class_name}")
    return cast(Callable[..., Any], found)
