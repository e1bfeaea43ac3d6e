"""Lightning's Trainer from a config's ``trainer`` section."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from hetpure.config.registry import constructor_arguments
from hetpure.config.schema import unknown_key
from hetpure.errors import ConfigError, require

if TYPE_CHECKING:
    import lightning

MOST_DEVICES, MOST_NODES = 1024, 65536


def check_trainer(settings: Mapping[str, Any], reserved: Collection[str]) -> None:
    """Refuses keys that Lightning's Trainer does not take, or that the program itself sets."""
    arguments = constructor_arguments("lightning.pytorch.trainer.trainer:Trainer")
    accepted = [name for name in arguments or () if name not in reserved]
    for key in settings if arguments is not None else ():  # where they cannot be read, ``build_trainer`` refuses
        if key in reserved:
            raise ConfigError(f"trainer.{key}", "is set by the command itself", accepted=", ".join(accepted))
        if key not in accepted:
            raise unknown_key(key, accepted, "trainer")
    devices, nodes = settings.get("devices", 1), settings.get("num_nodes", 1)
    if isinstance(devices, list):
        distinct = bool(devices) and all(type(device) is int for device in devices) and len({*devices}) == len(devices)
        require(distinct, "trainer.devices", devices, "a list of different numbers of devices")
    elif isinstance(devices, int):
        fits = 1 <= devices <= MOST_DEVICES or devices == -1
        require(fits, "trainer.devices", devices, f"1 to {MOST_DEVICES}, -1 or auto for all, or a list of numbers")
    if isinstance(nodes, int):
        require(1 <= nodes <= MOST_NODES, "trainer.num_nodes", nodes, f"1 to {MOST_NODES}")


def build_trainer(settings: Mapping[str, Any]) -> lightning.Trainer:
    """The Trainer, without Lightning's notices, which would bury the program's own lines; refuses what it refuses."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # importing Lightning sets it to INFO
    hints = get_type_hints(lightning.Trainer.__init__)
    for key, value in settings.items():
        if key in hints and not _takes(hints[key], value):
            raise ConfigError(f"trainer.{key}", found=value, accepted=", ".join(dict.fromkeys(_words(hints[key]))))
    try:
        return lightning.Trainer(**settings)
    except Exception as error:  # Lightning and the packages of its plug-ins raise dozens of types
        raise ConfigError(_at_fault(settings), " ".join(str(error).split())) from None


def _at_fault(settings: Mapping[str, Any]) -> str:
    """The first key that Lightning refuses by itself; the section where it refuses how several go together."""
    import lightning

    for key, value in settings.items():
        try:
            lightning.Trainer(**{"logger": False, "enable_checkpointing": False, key: value})
        except Exception:  # as above
            return f"trainer.{key}"
    return "trainer"


def _takes(hint: Any, value: Any) -> bool:
    """Whether a value is of an argument's type, as far as a config can hold it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type):  # a list
        return isinstance(value, list | tuple) and all(_takes(parts[0], part) for part in value)
    if parts:  # a union
        return any(_takes(part, value) for part in parts)
    if hint in (int, float):
        return isinstance(value, hint | int) and not isinstance(value, bool) and math.isfinite(value)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> list[str]:
    """What ``_takes`` takes, in words, without the objects that no config can hold."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return [str(part) for part in parts]
    names = {int: "an integer", float: "a number", str: "text", bool: "true, false", NoneType: "null"}
    if isinstance(origin := get_origin(hint), type):
        return ["a section" if issubclass(origin, Mapping) else "a list"]
    return [word for part in parts for word in _words(part)] if parts else [names[hint]] if hint in names else []
