"""Attacks by name. An attack's constructor arguments are its config keys, beside those that every attack has."""

from collections.abc import Mapping
from typing import Any, Literal

from hetpure.attacks.apgd import APGD
from hetpure.attacks.autoattack import AutoAttack, ReferenceAutoAttack
from hetpure.attacks.base import Attack
from hetpure.attacks.modes import GRADIENTS, SUPPLIED, WITHOUT_PROCESS
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.attacks.random_noise import RandomNoise
from hetpure.config import signature_schema, structure, to_dict
from hetpure.errors import AbsentError, ConfigError

ATTACKS: dict[str, type[Attack]] = {
    "pgd": PGD,
    "apgd": APGD,
    "momentum_pgd": MomentumPGD,
    "autoattack": AutoAttack,
    "autoattack_reference": ReferenceAutoAttack,
    "random_noise": RandomNoise,
}

COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str, "pgd"),
    "gradient": (Any, None),
    "eot": (int, 20),
    "recompute": (bool | Literal["auto"], True),
    "process": (dict[str, Any], {}),
}
"""Keys of every attack: how the attacker sees the defense; draws per gradient; recompute each denoising step in the
backward pass (``auto``: where its graph would not fit in memory); changes to the purifier for the attacker alone (a
surrogate)."""


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
    completed["gradient"] = complete_gradient(completed["gradient"], completed["process"])
    build_attack(completed)
    return completed


def complete_gradient(settings: Any, process: Mapping[str, Any]) -> dict[str, Any]:
    """Checks ``attack.gradient``, a mode's name or a section with ``name``, and fills in the mode's defaults.

    Args:
        settings: as found; None is ``surrogate`` where the process is changed, else ``exact``.
        process: the completed ``attack.process``.

    Raises:
        ConfigError: for an unknown mode or key, a wrong type, or a mode that does not go with the process.
    """
    if settings is None:
        settings = "surrogate" if process else "exact"
    settings = {"name": settings} if isinstance(settings, str) else settings
    if not isinstance(settings, Mapping):
        raise ConfigError(f"attack.gradient: found {settings!r}, accepted are {', '.join(GRADIENTS)}, or a section")
    name = settings.get("name", "exact")
    if not isinstance(name, str) or name not in GRADIENTS:
        raise ConfigError(f"attack.gradient.name: {name!r} is unknown; accepted are {', '.join(GRADIENTS)}")
    if process and name in WITHOUT_PROCESS:
        raise ConfigError(
            f"attack.process: found {dict(process)}, accepted is none with gradient {name}: {WITHOUT_PROCESS[name]}"
        )
    if name == "surrogate" and not process:
        raise ConfigError("attack.process: is empty, and gradient surrogate needs changes to the purifier, or is exact")
    schema = signature_schema(GRADIENTS[name], SUPPLIED, name=(str, name))
    return to_dict(structure(schema, settings, "attack.gradient"))


def build_attack(settings: Mapping[str, Any]) -> Attack | None:
    """The attack of completed settings; None for ``none``.

    Raises:
        ConfigError: for values that the attack rejects.
    """
    if settings["name"] == "none":
        return None
    try:
        return ATTACKS[settings["name"]](**{k: v for k, v in settings.items() if k not in COMMON})
    except AbsentError as error:
        raise AbsentError(f"attack.{error}") from None
    except ValueError as error:
        # A constructor's message starts with the argument's name.
        raise ConfigError(f"attack.{error}") from None
