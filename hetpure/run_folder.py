"""The folder of a run: it belongs to one config, and says which."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from hetpure.config import to_dict, to_yaml
from hetpure.errors import ConfigError

ALWAYS_FREE = (
    "output",
    "wandb",
    "data.workers",
    "classifier.source",
    "denoiser.source",
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "max_steps", "max_time", "val_check_interval")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "profiler")),
)
"""Keys that change no result: where a run lies, where its weights were had, how it is shown, on how many processes,
when it stops."""


def claim(folder: Path, config: DictConfig, free: Collection[str] = ()) -> None:
    """Saves the resolved config as ``config.yaml`` in a run's folder, or refuses a folder that is another run's.

    Args:
        folder: the run's; made if needed.
        config: the resolved config.
        free: keys that may differ when a run goes on, because they change no result.

    Raises:
        ConfigError: names the keys that differ, or says why the folder cannot be written.
    """
    file = folder / "config.yaml"
    try:
        old = yaml.safe_load(file.read_text()) if file.is_file() else None
        changes = _differences(old, to_dict(config), {*ALWAYS_FREE, *free}) if isinstance(old, dict) else []
        if changes:
            raise ConfigError(
                f"output: {folder} holds another config's run ({'; '.join(changes[:4])}); "
                "choose another output, or remove that folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(to_yaml(config))
        part.replace(file)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"output: {folder} cannot be used: {' '.join(str(error).split())}") from None


def _differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str], prefix: str = "") -> list[str]:
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        name = f"{prefix}{key}"
        if name in free or (prefix == "rows." and not (key in old and key in new)):
            continue  # a row more or less leaves the others' results as they are
        a, b = old.get(key), new.get(key)
        if isinstance(a or b, dict) and isinstance(a or {}, dict) and isinstance(b or {}, dict):
            a, b = a or {}, b or {}
            found += _differences(a, b, free, f"{name}.")
        elif a != b:
            found.append(f"{name} was {a!r}, is {b!r}")
    return found
