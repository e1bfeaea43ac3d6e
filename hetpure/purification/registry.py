"""Purifiers by name. A purifier's constructor arguments are its config keys: nothing else needs to know them."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hetpure.config import merge, signature_schema, structure, to_dict
from hetpure.config.renamed import new_name
from hetpure.errors import AbsentError, ConfigError
from hetpure.models.checkpoints import existing_path
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.models.networks import load_network
from hetpure.purification.adp import ScorePurifier
from hetpure.purification.atop import TrainedPurifier
from hetpure.purification.base import Purifier
from hetpure.purification.contrastive import ContrastivePurifier
from hetpure.purification.diffpure import DiffPureODE, DiffPureSDE
from hetpure.purification.ebm import EnergyPurifier
from hetpure.purification.freqpure import FrequencyPurifier
from hetpure.purification.gdmp import GuidedPurifier
from hetpure.purification.gns import GradualNoisePurifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.lorid import LowRankIterativePurifier
from hetpure.purification.menet import MENetPurifier
from hetpure.purification.mimic import MimicPurifier
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.pixeldefend import PixelDefendPurifier
from hetpure.purification.uniform import UniformPurifier

PURIFIERS: dict[str, type[Purifier]] = {
    "none": NoPurifier,
    "uniform": UniformPurifier,
    "heterogeneous": HeterogeneousPurifier,
    "diffpure_sde": DiffPureSDE,
    "diffpure_ode": DiffPureODE,
    "adp": ScorePurifier,
    "freqpure": FrequencyPurifier,
    "menet": MENetPurifier,
    "gdmp": GuidedPurifier,
    "gns": GradualNoisePurifier,
    "contrastive": ContrastivePurifier,
    "lorid": LowRankIterativePurifier,
    "mimic": MimicPurifier,
    "pixeldefend": PixelDefendPurifier,
    "ebm": EnergyPurifier,
    "atop": TrainedPurifier,
}

_NETWORKS = ("denoiser", "classifier", "network")


@dataclass
class NetworkConfig:
    """Which network of its own kind a purifier is around: its class, its weights, and where those can be had."""

    name: str | None = None
    weights: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


def complete_settings(settings: Mapping[str, Any], where: str = "purifier") -> dict[str, Any]:
    """Checks a purifier's config section and fills in its preset's and its constructor's defaults.

    Args:
        settings: ``name``, optionally ``preset``, and constructor arguments; ``network``, a ``NetworkConfig``, where
            the purifier is around a network of its own kind.
        where: the section's name, for messages.

    Raises:
        ConfigError: for an unknown purifier, preset or key, or a wrong type.
    """
    name = settings.get("name", "heterogeneous")
    if not isinstance(name, str) or name not in PURIFIERS:
        raise ConfigError(f"{where}.name: {name!r} is unknown; accepted are {', '.join(PURIFIERS)}")
    for key in settings:
        if (new := new_name(name, key)) is not None:
            raise ConfigError(f"{where}.{key}", f"is now called {where}.{new}")
    cls = PURIFIERS[name]
    preset = settings.get("preset", next(iter(cls.PRESETS), None))
    if preset is not None and (not isinstance(preset, str) or preset not in cls.PRESETS):
        accepted = ", ".join(cls.PRESETS) or f"none: {name} has no presets"
        raise ConfigError(f"{where}.preset: {preset!r} is unknown; accepted are {accepted}")
    extra: dict[str, Any] = {"name": (str, name)}
    if cls.PRESETS:
        extra["preset"] = (str, preset)
    schema = signature_schema(cls, supplied=_NETWORKS, **extra)
    network: dict[str, Any] = {}
    if issubclass(cls, NetworkPurifier):
        network["network"] = _complete_network(settings.get("network") or {}, f"{where}.network")
        settings = {key: value for key, value in settings.items() if key != "network"}
    return {**to_dict(structure(schema, merge(cls.PRESETS.get(preset or "", {}), settings), where)), **network}


def surrogate_settings(settings: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A completed attack process: the defense's settings with some changed.

    A change that names another purifier or preset starts from that one, not from the defense.

    Raises:
        ConfigError: see ``complete_settings``.
    """
    afresh = change.get("name", settings["name"]) != settings["name"] or "preset" in change
    base = {"name": settings["name"]} if afresh else settings
    return complete_settings({**base, **change}, "attack.process")


def default_ensemble_mode(settings: Mapping[str, Any]) -> str:
    """How a purifier's preset joins its purifications; the mean of logits where it does not say."""
    return PURIFIERS[settings["name"]].ENSEMBLE_MODES.get(settings.get("preset", ""), "mean_logits")


def needs_denoiser(settings: Mapping[str, Any]) -> bool:
    """Whether a purifier's constructor takes a denoiser."""
    return "denoiser" in inspect.signature(PURIFIERS[settings["name"]]).parameters


def check_network(settings: Mapping[str, Any], where: str = "purifier") -> None:
    """Looks for the network of a purifier that needs one of its own kind, from completed settings.

    Raises:
        AbsentError: where it is not named, has no weights, or they are not there.
    """
    cls = PURIFIERS[settings["name"]]
    if not issubclass(cls, NetworkPurifier):
        return
    given = settings["network"]
    for key in ("name", "weights"):
        if given[key] is None:
            source = f"; it comes from {given['source']}" if given["source"] else ""
            raise AbsentError(
                f"{where}.network.{key}: is missing, and the {settings['name']} purifier needs {cls.NETWORK}{source}"
            )
    existing_path(given["weights"], f"{where}.network.weights", given["source"])


def build_purifier(
    settings: Mapping[str, Any],
    classifier: Classifier,
    denoiser: Denoiser | None,
    where: str = "purifier",
    network: nn.Module | None = None,
) -> Purifier:
    """Builds a purifier from completed settings; ``network``, of its own kind, is loaded where it is not given.

    Raises:
        ConfigError: for values that the purifier rejects, or a denoiser that it needs and is not there.
    """
    cls = PURIFIERS[settings["name"]]
    networks = {"denoiser": denoiser, "classifier": classifier}
    taken = inspect.signature(cls).parameters
    if needs_denoiser(settings) and denoiser is None:
        raise ConfigError(f"denoiser.path: is missing, and the {settings['name']} purifier needs a denoiser")
    supplied: dict[str, Any] = {k: v for k, v in networks.items() if k in taken}
    if issubclass(cls, NetworkPurifier):
        if network is None:
            check_network(settings, where)
            given = settings["network"]
            network = load_network(given["name"], given["weights"], given["arguments"], f"{where}.network")
        supplied["network"] = network
    arguments = {k: v for k, v in settings.items() if k not in ("name", "preset", "network")}
    try:
        return cls(**supplied, **arguments)
    except ValueError as error:
        # A constructor's message starts with the argument's name.
        raise ConfigError(f"{where}.{error}") from None


def _complete_network(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: found {given!r}, accepted is a section of keys")
    return to_dict(structure(NetworkConfig, given, where))
