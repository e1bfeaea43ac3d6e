"""Objectives by name. An objective's constructor arguments are the keys of the config's section ``objective``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetpure.config.registry import Registry, check_keys, errors_within
from hetpure.config.schema import signature_schema, structure, to_dict
from hetpure.errors import ConfigError

if TYPE_CHECKING:
    from hetpure.training.objectives.base import Objective

OBJECTIVES: Registry[Objective] = Registry(
    {
        "noise": "hetpure.training.objectives.noise:NoiseObjective",
        "bridge": "hetpure.training.objectives.bridge:BridgeObjective",
        "flow": "hetpure.training.objectives.flow:GaussianFlow",
        "flow_pgd": "hetpure.training.objectives.flow:PGDFlow",
        "consistency": "hetpure.training.objectives.consistency:ConsistencyObjective",
    },
    base="hetpure.training.objectives.base:Objective",
    group="hetpure.objectives",
)

DEFAULT = "noise"
"""The objective of a config without one."""

SUPPLIED = ("schedule", "timesteps", "classifier")
"""Constructor arguments that the program supplies: the noise schedule, the section ``timesteps``, and a network."""


def complete_objective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the section ``objective`` and fills in its constructor's defaults; an empty one stays as it is.

    Its keys are ``name``, the constructor's arguments and, where it takes a classifier, ``classifier`` with the keys of
    ``hetpure.models.classifiers.build_classifier``.

    Raises:
        ConfigError: for an unknown objective or key, a wrong type, or no classifier where one is needed.
    """
    if not settings:
        return {}
    name = OBJECTIVES.check_name(settings.get("name", DEFAULT), "objective")
    check_keys(settings, OBJECTIVES.target(name), "objective", ("name",), ("schedule", "timesteps"))
    extra: dict[str, Any] = {"name": (str, name)}
    if takes(settings, "classifier"):
        extra["classifier"] = (dict[str, Any], {})
    with errors_within("objective"):
        schema = signature_schema(OBJECTIVES[name], SUPPLIED, **extra)
    completed = to_dict(structure(schema, settings, "objective"))
    if "classifier" in completed:
        completed["classifier"] = _complete_classifier(completed.pop("classifier"), name)
    return completed


def takes(settings: Mapping[str, Any], argument: str) -> bool:
    """Whether the constructor of the section's objective has such an argument."""
    with errors_within("objective"):
        return argument in inspect.signature(OBJECTIVES[settings.get("name", DEFAULT)]).parameters


def build_objective(settings: Mapping[str, Any], **supplied: Any) -> Objective:
    """Builds an objective from a completed section; ConfigError for values that it rejects."""
    given = {**{key: value for key, value in settings.items() if key != "name"}, **supplied}
    used = {key: value for key, value in given.items() if key not in SUPPLIED or takes(settings, key)}
    with errors_within("objective"):
        return OBJECTIVES[settings.get("name", DEFAULT)](**used)


def _complete_classifier(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    from hetpure.models.classifiers import build_classifier

    if not settings:
        raise ConfigError("objective.classifier", f"is missing, and the {name} objective attacks a classifier")
    return to_dict(structure(signature_schema(build_classifier, ()), settings, "objective.classifier"))
