"""Purifiers by name. A purifier's constructor arguments are its config keys: nothing else needs to know them.

Nothing is imported before it is used, so that a misspelt name or key is found at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hetpure.config import merge
from hetpure.config.registry import Registry, check_keys, errors_within
from hetpure.config.renamed import refuse_renamed
from hetpure.config.schema import signature_schema, structure, to_dict
from hetpure.errors import AbsentError, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from hetpure.models.classifiers import Classifier
    from hetpure.models.denoisers import Denoiser
    from hetpure.purification.base import Purifier

PURIFIERS: Registry[Purifier] = Registry(
    {
        "none": "hetpure.purification.none:NoPurifier",
        "uniform": "hetpure.purification.uniform:UniformPurifier",
        "heterogeneous": "hetpure.purification.heterogeneous:HeterogeneousPurifier",
        "diffpure_sde": "hetpure.purification.diffpure:DiffPureSDE",
        "diffpure_ode": "hetpure.purification.diffpure:DiffPureODE",
        "adp": "hetpure.purification.adp:ScorePurifier",
        "freqpure": "hetpure.purification.freqpure:FrequencyPurifier",
        "menet": "hetpure.purification.menet:MENetPurifier",
        "gdmp": "hetpure.purification.gdmp:GuidedPurifier",
        "gns": "hetpure.purification.gns:GradualNoisePurifier",
        "contrastive": "hetpure.purification.contrastive:ContrastivePurifier",
        "lorid": "hetpure.purification.lorid:LowRankIterativePurifier",
        "mimic": "hetpure.purification.mimic:MimicPurifier",
        "pixeldefend": "hetpure.purification.pixeldefend:PixelDefendPurifier",
        "ebm": "hetpure.purification.ebm:EnergyPurifier",
        "atop": "hetpure.purification.atop:TrainedPurifier",
        "fast_diffpure": "hetpure.purification.fast_diffpure:FastPurifier",
        "likelihood": "hetpure.purification.likelihood:LikelihoodPurifier",
        "consistency": "hetpure.purification.consistency:ConsistencyPurifier",
        "denoised_smoothing": "hetpure.purification.denoised_smoothing:DenoisedSmoothing",
        "gaussian_noise": "hetpure.purification.baselines:GaussianNoise",
        "gaussian_blur": "hetpure.purification.baselines:GaussianBlur",
        "bit_depth": "hetpure.purification.baselines:BitDepth",
        "total_variation": "hetpure.purification.baselines:TotalVariation",
        "jpeg": "hetpure.purification.jpeg:JPEG",
        "adbm": "hetpure.purification.adbm:BridgePurifier",
        "flowpure": "hetpure.purification.flowpure:FlowPurifier",
    },
    base="hetpure.purification.base:Purifier",
    group="hetpure.purifiers",
)

DEFAULT = "heterogeneous"
"""The purifier of a section without a name."""

NETWORKS = ("denoiser", "classifier", "network")
"""Constructor arguments that the program supplies."""


@dataclass(frozen=True)
class NetworkConfig:
    """A purifier's own network, which is no denoiser: its class, its weights, and where those can be had."""

    name: str | None = None
    weights: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


def check_purifier_keys(settings: Mapping[str, Any], where: str = "purifier") -> None:
    """Refuses an unknown purifier or key, and imports no purifier."""
    name = PURIFIERS.check_name(settings.get("name", DEFAULT), where)
    refuse_renamed(name, settings, where)
    check_keys(settings, PURIFIERS.target(name), where, ("name", "preset"), ("denoiser", "classifier"))


def complete_settings(settings: Mapping[str, Any], where: str = "purifier") -> dict[str, Any]:
    """Checks a purifier's config section and fills in its preset's and its constructor's defaults.

    Its keys are ``name``, ``preset``, the constructor's arguments and, where the purifier has a network of its own,
    ``network``, a ``NetworkConfig``. Raises ConfigError for an unknown purifier, preset or key, or a wrong type.
    """
    name = PURIFIERS.check_name(settings.get("name", DEFAULT), where)
    refuse_renamed(name, settings, where)
    with errors_within(where):
        cls = PURIFIERS[name]
    extra: dict[str, Any] = {"name": (str, name)}
    preset = settings.get("preset", next(iter(cls.PRESETS), None))
    if preset is not None and (not isinstance(preset, str) or preset not in cls.PRESETS):
        raise ConfigError(f"{where}.preset", found=preset, accepted=", ".join(cls.PRESETS) or f"none: {name} has none")
    if cls.PRESETS:
        extra["preset"] = (str, preset)
    if "network" in _parameters(cls):
        extra["network"] = (NetworkConfig, NetworkConfig(name=getattr(cls, "NETWORK_NAME", None)))
    schema = signature_schema(cls, supplied=NETWORKS, **extra)
    completed = to_dict(structure(schema, merge(cls.PRESETS.get(preset or "", {}), settings), where))
    if "network" in completed:
        completed["network"] = completed.pop("network")  # comes last in the saved config
    return completed


def surrogate_settings(settings: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A completed attack process: the defense's settings with some changed.

    A change that names another purifier or preset starts from that one's defaults, not from the defense's settings.
    Raises as ``complete_settings`` does.
    """
    afresh = change.get("name", settings["name"]) != settings["name"] or "preset" in change
    base = {"name": settings["name"]} if afresh else settings
    return complete_settings({**base, **change}, "attack.process")


def default_ensemble_mode(settings: Mapping[str, Any]) -> str:
    """How a purifier's preset joins its purifications; the mean of logits where the preset does not say."""
    return PURIFIERS[settings["name"]].ENSEMBLE_MODES.get(settings.get("preset", ""), "mean_logits")


def is_smoothing(settings: Mapping[str, Any]) -> bool:
    """Whether a purifier states its ``smoothing_sigma``, so that its majority vote can be certified."""
    from hetpure.purification.base import Purifier

    return PURIFIERS[settings["name"]].smoothing_sigma is not Purifier.smoothing_sigma


def needs_denoiser(settings: Mapping[str, Any]) -> bool:
    """Whether a purifier's constructor takes a denoiser."""
    return "denoiser" in _parameters(PURIFIERS[settings["name"]])


def check_network(settings: Mapping[str, Any], where: str = "purifier") -> None:
    """AbsentError where completed settings do not name a purifier's own network, or its weights are not there."""
    from hetpure.models.checkpoints import existing_path

    if (network := settings.get("network")) is None:
        return
    key, needed = f"{where}.network", getattr(PURIFIERS[settings["name"]], "NETWORK", "a network")
    source = f"; it comes from {network['source']}" if network["source"] else ""
    for name in ("name", "weights"):
        if network[name] is None:
            problem = f"is missing, and the {settings['name']} purifier needs {needed}{source}"
            raise AbsentError(f"{key}.{name}", problem)
    existing_path(network["weights"], f"{key}.weights", network["source"])


def build_purifier(
    settings: Mapping[str, Any],
    classifier: Classifier,
    denoiser: Denoiser | None,
    where: str = "purifier",
    network: nn.Module | None = None,
) -> Purifier:
    """Builds a purifier from completed settings; its own network, if it has one, is loaded where it is not given.

    Raises ConfigError for values that the purifier rejects, or a denoiser that it needs and is not there.
    """
    from hetpure.models.networks import load_network

    cls = PURIFIERS[settings["name"]]
    parameters = _parameters(cls)
    if "denoiser" in parameters and denoiser is None:
        raise ConfigError("denoiser.path", f"is missing, and the {settings['name']} purifier needs a denoiser")
    if "network" in parameters and network is None:
        check_network(settings, where)
        own = settings["network"]
        network = load_network(own["name"], own["weights"], own["arguments"], f"{where}.network")
    given = {**settings, "denoiser": denoiser, "classifier": classifier, "network": network}
    with errors_within(where):
        return cls(**{name: value for name, value in given.items() if name in parameters})


def check_values(settings: Mapping[str, Any], where: str = "purifier") -> None:
    """Refuses completed settings whose values the purifier rejects, as far as it can tell without its networks."""
    from hetpure.schedule import Schedule

    absent: Any = _AbsentNetwork()
    absent.schedule = Schedule()
    with suppress(_NetworkUsedError):
        build_purifier(settings, absent, absent, where, absent)


class _NetworkUsedError(BaseException):
    """A constructor used a network that is not there: it has accepted its values before. No constructor catches it."""


class _AbsentNetwork:
    """Stands for a network that is not loaded."""

    def __getattr__(self, name: str) -> Any:
        raise _NetworkUsedError(name)


def _parameters(cls: type[Purifier]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters
