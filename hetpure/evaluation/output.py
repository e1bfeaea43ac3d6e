"""The folder of a run: it belongs to one config, and says which."""

import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from hetpure.config import to_dict, to_yaml
from hetpure.errors import ConfigError

NOT_RESULTS = ("output", "wandb", "trainer", "pictures", "rows")
"""Keys that change no sample's result: a run may be resumed under others."""


def claim_output(output: Path, config: DictConfig) -> None:
    """Saves the resolved config in the run's folder, or refuses a folder that holds another run's results.

    Raises:
        ConfigError: names the keys that differ.
    """
    file = output / "config.yaml"
    fresh = to_dict(config)
    if file.is_file():
        try:
            old = yaml.safe_load(file.read_text())
        except yaml.YAMLError:
            old = None
        if isinstance(old, dict):
            changes = [f"{key} was {a!r}, is {b!r}" for key, a, b in _differences(old, fresh)]
            if changes:
                raise ConfigError(
                    f"output: {output} holds results of another config ({'; '.join(changes[:4])}); "
                    "choose another output, or remove that folder"
                )
    try:
        output.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(to_yaml(config))
        part.replace(file)
    except OSError as error:
        raise ConfigError(f"output: {output} cannot be written: {error.strerror}") from None


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        name = f"{prefix}{key}"
        if name in NOT_RESULTS or name in ("data.batch_size", "data.workers"):
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{name}.")
        elif a != b:
            found.append((name, a, b))
    return found
