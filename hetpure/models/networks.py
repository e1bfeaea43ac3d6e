"""Networks from anywhere: an importable nn.Module by its name, and its weights from a file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hetpure.config.plugins import load
from hetpure.errors import ConfigError
from hetpure.models.checkpoints import as_state, existing_path, load_exactly, one_line, read_file, reading

OURS = {"flow": "hetpure.models.flow:load_flow_field"}
"""Kinds of networks that this project saves, and their loaders."""


def import_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network, trainable, by the name of its class or of a function that builds it.

    The name is ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ConfigError: where it cannot be imported or built, or is no nn.Module.
    """
    build = _import_builder(name)
    try:
        network = build(**arguments)
    except ConfigError as error:
        raise error.within("arguments") from None
    except Exception as error:  # a user's class may raise anything
        raise ConfigError("arguments", f"{name} cannot be built from {dict(arguments)}: {_reason(error)}") from None
    if not isinstance(network, nn.Module):
        raise ConfigError("name", f"{name} gives a {type(network).__name__}", accepted="an nn.Module")
    return network


def load_network(name: str, weights: str, arguments: Mapping[str, Any], section: str) -> nn.Module:
    """``import_network``, then ``load_weights``, frozen and in evaluation mode; messages name the config's ``section``.

    A name of ``OURS`` stands for a loader that takes the path itself.

    Raises:
        ConfigError: for a name, arguments or weights that cannot be used.
    """
    try:
        if name in OURS:
            path = str(existing_path(weights, "weights"))
            with reading(path, "weights", f"network of the kind {name}"):
                network = load(OURS[name])(path, **arguments)
        elif ":" not in name:
            accepted = f"{', '.join(OURS)}, package.module:Class or path/to/file.py:Class"
            raise ConfigError("name", found=name, accepted=accepted)
        else:
            network = import_network(name, arguments)
            load_weights(network, weights)
    except ConfigError as error:
        raise error.within(section) from None
    return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, path: str) -> None:
    """Loads a ``.safetensors`` or ``torch.save`` file into a network, every name matching; no code in it is run.

    What wrappers put before every name is taken off: DataParallel's ``module.``, and the ``model.`` or ``0.`` of a
    network that was saved behind its normalisation. A network with a method ``from_public_layout`` renames the rest.

    Raises:
        ConfigError: about ``weights``, where the file is missing or unreadable, or names or shapes differ.
    """
    file = existing_path(path, "weights")
    with reading(path, "weights", "state dict"):
        content = read_file(file)
        for wrapper in ("state_dict", "model_state_dict", "model", "params"):
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        state, own = as_state(content), network.state_dict()
        for prefix in ("model.", "0."):
            if all(k.startswith(prefix) for k in state) and not any(k.startswith(prefix) for k in own):
                state = {k.removeprefix(prefix): v for k, v in state.items()}
        if (from_public_layout := getattr(network, "from_public_layout", None)) is not None:
            state = from_public_layout(state)
        load_exactly(network, state)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"


def _import_builder(name: str) -> Callable[..., Any]:
    builder = load(name)
    if inspect.isfunction(builder) or (isinstance(builder, type) and issubclass(builder, nn.Module)):
        return builder
    raise ConfigError("name", f"{name} is no nn.Module class and no function")
