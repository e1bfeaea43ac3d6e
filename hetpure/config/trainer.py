"""Lightning's Trainer from a config's ``trainer`` section."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from hetpure.config.registry import constructor_arguments
from hetpure.config.schema import unknown_key
from hetpure.errors import ConfigError

if TYPE_CHECKING:
    import lightning


def check_trainer(settings: Mapping[str, Any], reserved: Collection[str]) -> None:
    """Refuses keys that Lightning's Trainer does not take, or that the program itself sets."""
    arguments = constructor_arguments("lightning.pytorch.trainer.trainer:Trainer")
    accepted = [name for name in arguments or () if name not in reserved]
    for key in settings if arguments is not None else ():  # where they cannot be read, ``build_trainer`` refuses
        if key in reserved:
            raise ConfigError(f"trainer.{key}", "is set by the command itself", accepted=", ".join(accepted))
        if key not in accepted:
            raise unknown_key(key, accepted, "trainer")


def build_trainer(settings: Mapping[str, Any]) -> lightning.Trainer:
    """The Trainer, without Lightning's notices, which would bury the program's own lines; refuses what it refuses."""
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # importing Lightning sets it to INFO
    try:
        return lightning.Trainer(**settings)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError("trainer", " ".join(str(error).split())) from None
