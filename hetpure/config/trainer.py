"""Lightning's Trainer from a config's ``trainer`` section."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException

from hetpure.errors import ConfigError


def check_trainer(settings: Mapping[str, Any], reserved: Collection[str]) -> None:
    """Refuses keys that Lightning's Trainer does not take, or that the program itself sets.

    Raises:
        ConfigError: names the key and what is accepted.
    """
    accepted = [k for k in inspect.signature(lightning.Trainer.__init__).parameters if k not in ("self", *reserved)]
    for key in settings:
        if key in reserved:
            raise ConfigError(f"trainer.{key}: is set by the command itself; accepted are {', '.join(accepted)}")
        if key not in accepted:
            raise ConfigError(f"trainer.{key}: unknown key; accepted are Lightning's {', '.join(accepted)}")


def build_trainer(settings: Mapping[str, Any]) -> lightning.Trainer:
    """The Trainer.

    Raises:
        ConfigError: for what Lightning refuses.
    """
    try:
        return lightning.Trainer(**settings)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from None
