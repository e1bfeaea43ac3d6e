"""From complete settings to what runs: networks, defense and attack of every row, checked before any long work."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.registry import build_attack, build_gradient
from hetpure.config.registry import errors_within
from hetpure.config.schema import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import Guarded
from hetpure.defense.protocols import Protocol
from hetpure.errors import AbsentError, ConfigError, require
from hetpure.evaluation.config import SHARED, CertifyConfig, ProtocolsConfig, RowSettings, RunSettings
from hetpure.evaluation.content import FREE, code_content, network_content
from hetpure.evaluation.variants import variants
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.models.denoisers import Denoiser, Recomputed, build_denoiser
from hetpure.models.precision import (
    Precision,
    lowered_classifier,
    lowered_denoiser,
    prepared_classifier,
    prepared_denoiser,
)
from hetpure.purification.base import Purifier
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import build_purifier, needs_denoiser, surrogate_settings
from hetpure.runs.certificates import certified_radius
from hetpure.runs.claim import settings_hash
from hetpure.runs.records import Expected
from hetpure.runs.results import Conditions
from hetpure.runs.store import RecordStore


@dataclass(frozen=True)
class Row:
    """One method, built and checked."""

    name: str
    model: PurifiedClassifier  # the defense process
    attack: Attack | None
    gradient: ExactGradient | None  # the attacker's, through the attack process
    store: RecordStore  # where its records go
    conditions: Conditions  # that it is measured under, for the table
    settings: dict[str, Any]  # all that its records depend on
    variants: "dict[str, Row]" = field(default_factory=dict)  # under other attacks, for the honesty checks
    content: dict[str, Any] = field(default_factory=dict)  # hashes of its networks, and of code from outside
    certify: CertifyConfig | None = None  # how its images are certified

    @property
    def protocols(self) -> Sequence[Protocol]:
        """What it is judged by."""
        return self.model.protocols

    @property
    def checkpoints(self) -> list[int]:
        """After how many iterations of the attack its images are judged, beside the end."""
        return self.settings["attack"].get("checkpoints") or []

    @property
    def processes(self) -> list[PurifiedClassifier]:
        """The attack process, if any, in which the attacker's network calls run."""
        return [] if self.gradient is None else [self.gradient.process]


def content_of(rows: Sequence[Row], data: ImageDataModule) -> dict[str, Any]:
    """Hashes of the images and of every row's networks: the content behind the config's paths."""
    found = data.scan()
    return {
        # Earlier versions have the first hash alone.
        "data": {"images": found.first, "every_image": found.every},
        "rows": {row.name: row.content for row in rows},
    }


def made_under(rows: Sequence[Row], config: RunSettings) -> dict[str, str]:
    """A hash of what the records of each row, and of its variants, depend on; by the folder of the records.

    The config has also the rows that are not among ``rows``, but whose images these need.
    """
    free = (*FREE, "data.subset", "data.subset_seed", "data.subset_skip")  # a sample's records depend on no other's

    def of(row: Row, each: Row) -> dict[str, Any]:
        sources = (
            {name: settings_hash(config.rows[name], free) for name in each.attack.source_rows} if each.attack else {}
        )
        return {**each.settings, "content": row.content, **({"sources": sources} if sources else {})}

    return {name: settings_hash(of(row, each), free) for row in rows for name, each in _folders(row)}


def expect(rows: Sequence[Row], data: ImageDataModule, settings: Mapping[str, Sequence[str]]) -> None:
    """From now on only records of these data and settings count; ``settings`` are hashes by the folder of records."""
    if not rows:
        return
    source = data.test_source
    labels = {index: source.labels[index] for index in data.indices}
    for row in rows:
        for name, each in _folders(row):
            evaluations = {protocol.name: protocol.evaluations for protocol in each.protocols}
            shape = None if each.attack is None else data.image_shape
            sigma, radius = each.model.purifier.smoothing_sigma, None
            if each.certify is not None and sigma is not None:
                radius = partial(certified_radius, n=each.certify.n, alpha=each.certify.alpha, sigma=sigma)
            each.store.expect(
                Expected(
                    samples=labels.keys(),
                    labels=labels,
                    classes=data.num_classes,
                    evaluations=evaluations,
                    shape=shape,
                    seed=each.model.seed,
                    settings=settings[name],
                    radius=radius,
                )
            )


def _folders(row: Row) -> list[tuple[str, Row]]:
    return [(row.name, row), *((f"{row.name}/honesty/{name}", each) for name, each in row.variants.items())]


@dataclass(frozen=True)
class Loaded:
    """Networks by their settings: each is loaded once, however many rows, or builds of them, share it.

    ``networks`` are purifiers' own; they are kept only where a caller in Python gives them.
    """

    classifiers: dict[str, Classifier] = field(default_factory=dict)
    denoisers: dict[str, Denoiser] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)


def settings_key(settings: Any) -> str:
    """The key of a network in ``Loaded``."""
    return json.dumps(settings and to_dict(settings), sort_keys=True)


def build_rows(
    config: RunSettings,
    data: ImageDataModule,
    on_missing: Callable[[str, AbsentError], None] | None = None,
    loaded: Loaded | None = None,
) -> list[Row]:
    """Loads the networks of every row and checks them against the data and against each other.

    Args:
        config: the settings, with numbers in place of ``auto``.
        data: the images.
        on_missing: called for a row that lacks a file, which is then left out; by default that is a ConfigError.
        loaded: networks that are there already; what is missing is added.
    """
    builder = _Builder(config, data, loaded or Loaded())
    rows = []
    for name, settings in config.rows.items():
        try:
            rows.append(builder.row(name, settings))
        except ConfigError as error:
            if on_missing is None or not isinstance(error, AbsentError):
                raise config.in_row(name, error) from None
            on_missing(name, error)
    return rows


@dataclass(frozen=True)
class _Builder:
    config: RunSettings
    data: ImageDataModule
    loaded: Loaded
    hashes: dict[int, str] = field(default_factory=dict)

    def row(self, name: str, settings: RowSettings) -> Row:
        """A row with its networks' hashes and its variants."""
        config = self.config
        row = self._row(name, settings, settings.attack, Path(config.output), config.protocols)
        purifier = row.model.purifier
        if config.certify is not None and purifier.smoothing_sigma is not None:
            row.settings["certify"] = config.certify
            row = replace(row, certify=config.certify)
        network = purifier.network if isinstance(purifier, NetworkPurifier) else None
        if network is not None and (config.precision != "float32" or config.compile):
            key = "compile" if config.compile else "precision"
            problem = f"and the {settings.purifier['name']} purifier runs its own network as it is"
            raise ConfigError(key, problem, found=getattr(config, key), accepted="precision float32, compile false")
        networks = {"classifier": row.model.classifier, "denoiser": self._denoiser(settings), "purifier": network}
        row.content.update({key: self._hash(network) for key, network in networks.items() if network is not None})
        own_network = (settings.purifier.get("network") or {}).get("name")
        named = settings.classifier["name"], settings.denoiser.format, own_network
        if row.attack is not None and row.attack.content is not None:
            row.content["attack"] = row.attack.content
        if code := code_content(settings.purifier, settings.attack, *named):
            row.content["code"] = code
        if config.honesty.images and row.attack is not None:
            folder, shape = row.store.folder / "honesty", self.data.image_shape
            changed = variants(settings, row.attack, config.honesty.factor, shape, row.model.stochastic)
            for variant, attack in changed.items():
                row.variants[variant] = self._row(variant, settings, attack, folder, ProtocolsConfig())
        return row

    def _row(
        self, name: str, settings: RowSettings, attack_settings: dict[str, Any], output: Path, judged: ProtocolsConfig
    ) -> Row:
        config, data = self.config, self.data
        classifier, denoiser = self._classifier(settings), self._denoiser(settings)
        guarded = Guarded(denoiser) if denoiser is not None else None
        network = self.loaded.networks.get(settings_key(settings.purifier.get("network")))
        purifier = self._tried(build_purifier(settings.purifier, classifier, guarded, network=network), "purifier")
        size, mode, chunk_size = settings.ensemble.size, settings.ensemble.mode, int(config.chunk_size)
        numbers = (data.num_classes, size, mode, chunk_size, config.seed, judged.resubmissions, judged.votes)
        model = PurifiedClassifier(classifier, purifier, *numbers)
        store = RecordStore(output / name, [protocol.name for protocol in model.protocols])
        attack = build_attack(attack_settings)
        shared = {key: getattr(config, key) for key in SHARED if key != "certify"}
        own = {**shared, **vars(settings), "attack": attack_settings, "protocols": judged}
        conditions = Conditions(ensemble=model.ensemble_size, network_calls=model.network_calls)
        if attack is None:
            return Row(name, model, None, None, store, conditions, own)
        norm = attack.threat.norm if attack.threat is not None else None
        if attack.classes > data.num_classes:
            raise ConfigError(
                "attack", f"{attack} needs {attack.classes} classes or more, the data have {data.num_classes}"
            )
        with errors_within("attack"):
            attack.find_rows(Path(config.output))
            attack.check_images(data.indices, lambda index: item(data.test_source, index)["image"])
        process = surrogate_settings(settings.purifier, attack_settings["process"])
        precision = self._attack_precision(attack_settings, network)
        lowered = lowered_classifier(classifier, precision)
        seen = None if denoiser is None else Guarded(lowered_denoiser(denoiser, precision))
        if seen is not None and (again := attack_settings["recompute"]):
            seen = Recomputed(seen, 0.0 if again is True else again)
        surrogate = build_purifier(process, lowered, seen, "attack.process", network)
        behind = model.behind(self._tried(surrogate, "attack.process"), lowered)
        with errors_within("attack.gradient"):
            mode = attack_settings["gradient"]
            if not (attack.uses_defense and attack.uses_gradients):  # one that every purifier accepts
                mode = {"name": "bpda" if attack.uses_defense else "blind"}
            gradient = build_gradient(mode, behind, attack_settings["eot"], config.seed)
        if not attack.uses_defense:
            conditions = Conditions(str(attack), "-", 1, model.ensemble_size, norm=norm)
            return Row(name, model, attack, gradient, store, conditions, own)
        if not attack.uses_gradients:
            conditions = replace(conditions, attack=str(attack), norm=norm)
            return Row(name, model, attack, gradient, store, conditions, own)
        view, changes = str(gradient), ", ".join(f"{key} {value}" for key, value in attack_settings["process"].items())
        if changes:
            view = f"surrogate: {changes}" if view == "exact" else f"{view}; surrogate: {changes}"
        view += f", in {precision}" if precision else ""
        calls = attack.purifications(gradient) * behind.network_calls
        measured = {"attack": str(attack), "gradients": view, "eot": gradient.eot, "norm": norm}
        conditions = replace(conditions, **measured, gradient_calls=calls)
        return Row(name, model, attack, gradient, store, conditions, own)

    def _attack_precision(self, attack: Mapping[str, Any], network: nn.Module | None) -> Precision | None:
        """The attacker's precision; None where it is the defense's. Refuses one that is not lower."""
        precision, own, order = attack.get("precision"), self.config.precision, ("float32", "tf32", "bfloat16")
        if precision is None:
            return None
        lower = order.index(precision) > order.index(own)
        require(lower, "attack.precision", precision, f"null, or lower than precision, which is {own}")
        require(network is None, "attack.precision", precision, "null: the purifier's own network runs as it is")
        if precision == "tf32" and not torch.cuda.is_available():
            raise ConfigError("attack.precision", "which only NVIDIA GPUs have", found=precision, accepted="bfloat16")
        return precision

    def _classifier(self, settings: RowSettings) -> Classifier:
        known, key = self.loaded.classifiers, settings_key(settings.classifier)
        if key not in known:
            classifier = build_classifier(**settings.classifier)
            classifier.check_classes(self.data.image_shape, self.data.num_classes)
            known[key] = prepared_classifier(classifier, self.config.precision, self.config.compile)
        return known[key]

    def _denoiser(self, settings: RowSettings) -> Denoiser | None:
        if not needs_denoiser(settings.purifier) or settings.denoiser.path is None:
            return None
        known, key = self.loaded.denoisers, settings_key(settings.denoiser)
        if key not in known:
            denoiser = build_denoiser(**to_dict(settings.denoiser))
            denoiser.check_image_shape(self.data.image_shape)
            known[key] = prepared_denoiser(denoiser, self.config.precision, self.config.compile)
        return known[key]

    def _tried(self, purifier: Purifier, where: str) -> Purifier:
        """The purifier, after a trial of its per-image work: only a run shows whether blocks give maps."""
        with errors_within(where):
            with torch.no_grad():
                purifier.prepare(torch.zeros(1, *self.data.image_shape))
            if isinstance(purifier, NetworkPurifier):
                purifier.check_images(self.data.image_shape)
        return purifier

    def _hash(self, network: nn.Module) -> str:
        if id(network) not in self.hashes:
            self.hashes[id(network)] = network_content(network)
        return self.hashes[id(network)]
