"""From a complete config to what runs: networks, defense and attack of every row, checked before any long work."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.modes import build_gradient
from hetpure.attacks.registry import build_attack
from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import Guarded
from hetpure.defense.protocols import Protocol
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.config import in_row, row_configs
from hetpure.evaluation.content import data_content, network_content
from hetpure.evaluation.variants import variants
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.models.denoisers import Denoiser, Recomputed, build_denoiser
from hetpure.models.precision import prepared_classifier, prepared_denoiser
from hetpure.purification.base import Purifier
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import build_purifier, needs_denoiser, surrogate_settings
from hetpure.runs.records import RecordStore
from hetpure.runs.results import Conditions


@dataclass(frozen=True)
class Row:
    """One method, built and checked.

    Attributes:
        name: of the method.
        model: the defense process.
        attack: the attack, or None.
        gradient: the attacker's gradients through the attack process, or None.
        store: where its records go.
        conditions: what it is measured under, for the table.
        protocols: what it is judged by.
        processes: what runs the attacker's network calls.
        settings: the attack's, completed.
        variants: the same method under other attacks, for the honesty checks.
        content: hashes of its networks.
    """

    name: str
    model: PurifiedClassifier
    attack: Attack | None
    gradient: ExactGradient | None
    store: RecordStore
    conditions: Conditions
    protocols: Sequence[Protocol]
    processes: Sequence[PurifiedClassifier] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    variants: "dict[str, Row]" = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)


def content_of(rows: Sequence[Row], data: ImageDataModule) -> dict[str, Any]:
    """What the config's paths led to: hashes of the images and of every row's networks."""
    return {"data": {"images": data_content(data)}, "rows": {row.name: row.content for row in rows}}


@dataclass(frozen=True)
class Loaded:
    """Networks by their settings: each is loaded once, however many rows, or builds of them, share it.

    ``networks`` are purifiers' own; they are kept only where a caller has them in hand.
    """

    classifiers: dict[str, Classifier] = field(default_factory=dict)
    denoisers: dict[str, Denoiser] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)


def build_rows(
    config: DictConfig,
    data: ImageDataModule,
    lacks: Callable[[str, AbsentError], None] | None = None,
    loaded: Loaded | None = None,
) -> list[Row]:
    """Loads the networks of every row and checks them against the data and against each other.

    Args:
        config: complete, with numbers where it may say ``auto``.
        data: the images.
        lacks: told of a row that something is not here for, which is then left out; by default that is an error.
        loaded: networks that are there already; what is missing is added.

    Raises:
        ConfigError: names the key or file.
    """
    loaded = loaded or Loaded()
    classifiers, denoisers = loaded.classifiers, loaded.denoisers
    hashes: dict[int, str] = {}
    rows = []
    for name, row in row_configs(config).items():
        try:
            key = settings_key(row.classifier)
            if key not in classifiers:
                classifier = build_classifier(**to_dict(row.classifier))
                classifier.check_classes(data.image_shape, data.num_classes)
                classifiers[key] = prepared_classifier(classifier, row.precision, row.compile)
            denoiser = None
            if needs_denoiser(row.purifier) and row.denoiser.path is not None:
                key_d = settings_key(row.denoiser)
                if key_d not in denoisers:
                    found = build_denoiser(**to_dict(row.denoiser))
                    found.check_image_shape(data.image_shape)
                    denoisers[key_d] = prepared_denoiser(found, row.precision, row.compile)
                denoiser = denoisers[key_d]
            given = loaded.networks.get(settings_key(row.purifier.get("network")))
            built = _build_row(name, row, data, classifiers[key], denoiser, Path(config.output), given)
            if config.honesty.images:
                for variant, changed in variants(row, data.image_shape, built.model.purifier.stochastic).items():
                    folder = built.store.folder / "honesty"
                    built.variants[variant] = _build_row(
                        variant, changed, data, classifiers[key], denoiser, folder, given
                    )
            purifier = built.model.purifier
            own = purifier.network if isinstance(purifier, NetworkPurifier) else None
            if own is not None and (row.precision != "float32" or row.compile):
                raise ConfigError(
                    f"precision, compile: found {row.precision}, {row.compile}, accepted are float32, false with the "
                    f"{row.purifier.name} purifier: its own network runs as it is"
                )
            networks = {"classifier": classifiers[key], "denoiser": denoiser, "purifier": own}
            for network_name, network in networks.items():
                if network is not None:
                    built.content[network_name] = hashes.setdefault(id(network), "") or network_content(network)
                    hashes[id(network)] = built.content[network_name]
            rows.append(built)
        except ConfigError as error:
            if lacks is not None and isinstance(error, AbsentError):
                lacks(name, error)
                continue
            raise in_row(name, config.rows.get(name, {}), error) from None
    return rows


def settings_key(settings: DictConfig | None) -> str:
    """What ``Loaded`` knows a network by."""
    return json.dumps(settings and to_dict(settings), sort_keys=True)


def _build_row(
    name: str,
    row: DictConfig,
    data: ImageDataModule,
    classifier: Classifier,
    denoiser: Denoiser | None,
    output: Path,
    network: nn.Module | None,
) -> Row:
    settings = to_dict(row.purifier)
    guarded = Guarded(denoiser) if denoiser is not None else None
    model = PurifiedClassifier(
        classifier,
        _tried(build_purifier(settings, classifier, guarded, network=network), data, "purifier"),
        data.num_classes,
        row.ensemble.size,
        row.ensemble.mode,
        row.chunk_size,
        row.seed,
        row.protocols.resubmissions,
        row.protocols.votes,
    )
    protocols = model.protocols
    store = RecordStore(output / name, [protocol.name for protocol in protocols])
    attack = build_attack(to_dict(row.attack))
    if attack is None:
        return Row(name, model, None, None, store, Conditions(ensemble=model.ensemble_size), protocols)
    if attack.classes > data.num_classes:
        raise ConfigError(f"attack: {attack} needs {attack.classes} classes or more, the data have {data.num_classes}")
    process = surrogate_settings(settings, to_dict(row.attack.process))
    seen = Recomputed(guarded) if guarded is not None and row.attack.recompute else guarded
    purifier = _tried(build_purifier(process, classifier, seen, "attack.process", network), data, "attack.process")
    try:
        gradient = build_gradient(to_dict(row.attack.gradient), model.behind(purifier), row.attack.eot, row.seed)
    except ValueError as error:
        raise ConfigError(f"attack.gradient.{error}") from None
    conditions = Conditions(str(attack), seen_as(str(gradient), row), gradient.eot, model.ensemble_size)
    return Row(name, model, attack, gradient, store, conditions, protocols, [gradient.process], to_dict(row.attack))


def seen_as(mode: str, row: DictConfig) -> str:
    """How gradients are seen, for tables: the mode in its own words, and what a row's attack process changes."""
    change = ", ".join(f"{key} {value}" for key, value in to_dict(row.attack.process).items())
    if not change:
        return mode
    return f"surrogate: {change}" if mode == "exact" else f"{mode}; surrogate: {change}"


def _tried(purifier: Purifier, data: ImageDataModule, where: str) -> Purifier:
    """The purifier, after its per-image work has gone through once: only a run tells whether blocks give maps."""
    try:
        with torch.no_grad():
            purifier.prepare(torch.zeros(1, *data.image_shape))
        if isinstance(purifier, NetworkPurifier):
            purifier.check_images(data.image_shape)
    except ValueError as error:
        raise ConfigError(f"{where}.{error}") from None
    return purifier
