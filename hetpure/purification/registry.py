"""Purifiers by name. A purifier's constructor arguments are its config keys: nothing else needs to know them."""

import inspect
from collections.abc import Mapping
from typing import Any

from hetpure.config import merge, signature_schema, structure, to_dict
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.purification.adp import ScorePurifier
from hetpure.purification.base import Purifier
from hetpure.purification.contrastive import ContrastivePurifier
from hetpure.purification.diffpure_ode import DiffPureODE
from hetpure.purification.diffpure_sde import DiffPureSDE
from hetpure.purification.freqpure import FrequencyPurifier
from hetpure.purification.gdmp import GuidedPurifier
from hetpure.purification.gns import GradualNoisePurifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.lorid import LowRankIterativePurifier
from hetpure.purification.menet import MENetPurifier
from hetpure.purification.mimic import MimicPurifier
from hetpure.purification.none import NoPurifier
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
}

_NETWORKS = ("denoiser", "classifier")


def complete_settings(settings: Mapping[str, Any], where: str = "purifier") -> dict[str, Any]:
    """Checks a purifier's config section and fills in its preset's and its constructor's defaults.

    Args:
        settings: ``name``, optionally ``preset``, and constructor arguments.
        where: the section's name, for messages.

    Raises:
        ConfigError: for an unknown purifier, preset or key, or a wrong type.
    """
    name = settings.get("name", "heterogeneous")
    if not isinstance(name, str) or name not in PURIFIERS:
        raise ConfigError(f"{where}.name: {name!r} is unknown; accepted are {', '.join(PURIFIERS)}")
    cls = PURIFIERS[name]
    preset = settings.get("preset", next(iter(cls.PRESETS), None))
    if preset is not None and (not isinstance(preset, str) or preset not in cls.PRESETS):
        accepted = ", ".join(cls.PRESETS) or f"none: {name} has no presets"
        raise ConfigError(f"{where}.preset: {preset!r} is unknown; accepted are {accepted}")
    extra: dict[str, Any] = {"name": (str, name)}
    if cls.PRESETS:
        extra["preset"] = (str, preset)
    schema = signature_schema(cls, supplied=_NETWORKS, **extra)
    return to_dict(structure(schema, merge(cls.PRESETS.get(preset or "", {}), settings), where))


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


def build_purifier(
    settings: Mapping[str, Any], classifier: Classifier, denoiser: Denoiser | None, where: str = "purifier"
) -> Purifier:
    """Builds a purifier from completed settings.

    Raises:
        ConfigError: for values that the purifier rejects, or a denoiser that it needs and is not there.
    """
    cls = PURIFIERS[settings["name"]]
    networks = {"denoiser": denoiser, "classifier": classifier}
    taken = inspect.signature(cls).parameters
    if needs_denoiser(settings) and denoiser is None:
        raise ConfigError(f"denoiser.path: is missing, and the {settings['name']} purifier needs a denoiser")
    arguments = {k: v for k, v in settings.items() if k not in ("name", "preset")}
    try:
        return cls(**{k: v for k, v in networks.items() if k in taken}, **arguments)
    except ValueError as error:
        # A constructor's message starts with the argument's name.
        raise ConfigError(f"{where}.{error}") from None
