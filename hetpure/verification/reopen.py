"""A run's data and networks opened again, as far as they are here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch

from hetpure.attacks.base import Attack
from hetpure.attacks.registry import build_attack, complete_attack
from hetpure.config import DataConfig
from hetpure.config.registry import resolve
from hetpure.config.schema import signature_schema, structure, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.build import Row
from hetpure.evaluation.config import CLASSIFIER, RunSettings, restore
from hetpure.evaluation.resolve import Resolved, resolve_rows
from hetpure.evaluation.run import evaluation_trainer, set_precision
from hetpure.purification.registry import complete_settings


@dataclass
class Reopened:
    """What of a run could be opened.

    Attributes:
        config: the settings; None where they cannot be used.
        data: the images, with ``indices``; None where they are not here.
        resolved: rows with their networks; None where they are not here.
        trainer: the device.
        no_data, no_networks: why not.
        refused: whether that is because the settings themselves cannot be built.
    """

    config: RunSettings | None = None
    data: ImageDataModule | None = None
    resolved: Resolved | None = None
    trainer: lightning.Trainer | None = None
    no_data: str = ""
    no_networks: str = ""
    refused: bool = False

    def row(self, name: str) -> Row | None:
        """A row with its networks; None where they are not here."""
        return next((row for row in self.resolved.rows if row.name == name), None) if self.resolved else None

    def attack(self, row: str) -> Attack | None:
        """A row's attack, without networks; None where it has none or the settings cannot be used."""
        try:
            return build_attack(complete_attack(self.config.rows[row].attack)) if self.config else None
        except ConfigError:
            return None


def reopen(raw: Mapping[str, Any], given: Collection[str] = ()) -> Reopened:
    """Opens data and networks of a saved config; what cannot be opened is named and left out.

    Args:
        raw: the config, with ``output``, and all code that it names allowed.
        given: keys that the user has set.

    Raises:
        ConfigError: about a key that the user has set.
    """
    opened = Reopened()
    try:
        opened.config = _completed(restore(raw))
    except ConfigError as error:
        opened.no_networks, opened.refused = _reason(error, given), _is_refusal(error)
    try:
        data = ImageDataModule(**to_dict(structure(DataConfig, raw["data"], "data")))
        opened.data = data.prepare()
    except ConfigError as error:
        opened.no_data = _reason(error, given)
        opened.no_networks = opened.no_networks or opened.no_data
    if opened.no_networks or opened.config is None:
        return opened
    config = opened.config
    torch.set_num_threads(config.threads or torch.get_num_threads())
    # Processes, devices and plug-ins of Lightning are not the folder's to choose.
    accelerator = "cpu" if config.trainer.get("accelerator") == "cpu" else "auto"
    opened.trainer = evaluation_trainer({"accelerator": accelerator})
    try:
        set_precision(config, opened.trainer)
    except ConfigError as error:
        opened.no_networks = str(error)
        return opened
    try:
        opened.resolved = resolve_rows(config, opened.trainer)
        opened.data = opened.resolved.data
    except ConfigError as error:
        opened.no_networks, opened.refused = _reason(error, given), _is_refusal(error)
    return opened


def _completed(config: RunSettings) -> RunSettings:
    """The settings with the defaults of keys that an older version did not have.

    Raises:
        ConfigError: for settings that this program does not know, or that do not name what is built.
    """
    rows = {}
    for name, row in config.rows.items():
        for key in ("classifier", "purifier", "attack"):
            if "name" not in getattr(row, key):
                raise ConfigError(f"rows.{name}.{key}.name", "is not in config.yaml")
        if (source := str(row.classifier.get("source") or "")).startswith("given to hetpure.evaluate"):
            raise AbsentError("classifier", f"was {source}; only a config's networks can be built again")
        classifier = structure(signature_schema(resolve(CLASSIFIER), ()), row.classifier, "classifier")
        purifier, attack = complete_settings(row.purifier), complete_attack(row.attack)
        rows[name] = replace(row, classifier=to_dict(classifier), purifier=purifier, attack=attack)
    return replace(config, rows=rows)


def _is_refusal(error: ConfigError) -> bool:
    """Whether values cannot be used, rather than files or named classes not found here."""
    return not isinstance(error, AbsentError) and not error.key.endswith(".name")


def _reason(error: ConfigError, given: Collection[str]) -> str:
    if any(error.key == key or error.key.endswith(f".{key}") for key in given):
        raise error
    return str(error)
