"""Lightning's Trainer from a config's ``trainer`` section."""

import inspect
import logging
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
        if key not in accepted:
            problem = "is set by the command itself" if key in reserved else "unknown key"
            raise ConfigError(f"trainer.{key}", problem, accepted=", ".join(accepted))


def build_trainer(settings: Mapping[str, Any]) -> lightning.Trainer:
    """The Trainer, without Lightning's notices on standard error: they would bury the program's own lines.

    Raises:
        ConfigError: for what Lightning refuses.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # importing Lightning sets it to INFO
    try:
        return lightning.Trainer(**settings)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError("trainer", " ".join(str(error).split())) from None
