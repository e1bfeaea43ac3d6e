"""Attacks by name. An attack's constructor arguments are its config keys, beside those that every attack has."""

from collections.abc import Mapping
from typing import Any

from hetpure.attacks.base import Attack
from hetpure.attacks.pgd import PGD
from hetpure.attacks.random_noise import RandomNoise
from hetpure.config import signature_schema, structure, to_dict
from hetpure.errors import ConfigError

ATTACKS: dict[str, type[Attack]] = {"pgd": PGD, "random_noise": RandomNoise}

COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str, "pgd"),
    "eot": (int, 20),
    "recompute": (bool, True),
    "process": (dict[str, Any], {}),
}
"""Keys of every attack: draws per gradient; recompute each denoising step in the backward pass; changes to the purifier
for the attacker alone (a surrogate)."""


def complete_attack(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an ``attack`` section and fills in defaults; ``none`` attacks nothing and keeps only its name.

    Raises:
        ConfigError: for an unknown attack or key, a wrong type, or a value that cannot be.
    """
    name = settings.get("name", "pgd")
    if name == "none":
        return {"name": "none"}
    if not isinstance(name, str) or name not in ATTACKS:
        raise ConfigError(f"attack.name: {name!r} is unknown; accepted are {', '.join(ATTACKS)}, none")
    schema = signature_schema(ATTACKS[name], (), **{**COMMON, "name": (str, name)})
    completed = to_dict(structure(schema, settings, "attack"))
    if completed["eot"] < 1:
        raise ConfigError(f"attack.eot: found {completed['eot']}, accepted is 1 or more")
    build_attack(completed)
    return completed


def build_attack(settings: Mapping[str, Any]) -> Attack | None:
    """The attack of completed settings; None for ``none``.

    Raises:
        ConfigError: for values that the attack rejects.
    """
    if settings["name"] == "none":
        return None
    try:
        return ATTACKS[settings["name"]](**{k: v for k, v in settings.items() if k not in COMMON})
    except ValueError as error:
        # A constructor's message starts with the argument's name.
        raise ConfigError(f"attack.{error}") from None
