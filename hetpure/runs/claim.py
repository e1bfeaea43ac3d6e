"""The folder of a run: it belongs to one config, and says which."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hetpure import __version__
from hetpure.config import to_dict, to_yaml
from hetpure.errors import ConfigError
from hetpure.runs.files import (
    CONFIG,
    CONTENT,
    FORMAT_VERSION,
    RUN,
    format_version,
    read_config,
    read_mapping,
    write_whole,
)

ALWAYS_FREE = (
    "output",
    "wandb",
    "data.workers",
    *(f"{row}{key}.source" for row in ("", "rows.*.") for key in ("classifier", "denoiser", "purifier.network")),
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "max_steps", "max_time", "val_check_interval")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "profiler")),
)
"""Keys that change no result: where a run lies, where its weights were had, how it is shown, on how many processes,
when it stops."""

CHOSEN_LATER = ("chunk_size", "recompute")
"""Last parts of keys whose ``auto`` in a folder is a choice that no run had to make yet: one that makes it goes on."""


def claim(folder: Path, config: Any, free: Collection[str] = (), content: Mapping[str, Any] | None = None) -> None:
    """Saves the resolved config as ``config.yaml`` in a run's folder, or refuses a folder that is another run's.

    Args:
        folder: the run's; made if needed.
        config: the resolved config, as a mapping or a dataclass.
        free: keys that may differ when a run goes on, because they change no result; ``*`` is one part of a name.
        content: what the config's paths led to, as nested mappings of short strings, kept in ``content.yaml``. With it
            paths may be free: a file that moved is the same file, another one at the same place is not.

    Raises:
        ConfigError: names the keys that differ, or says why the folder cannot be written.
    """
    check_claim(folder, config, free, content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = {"format_version": FORMAT_VERSION, "hetpure": __version__}
        write_whole(folder / RUN, json.dumps(run, indent=2) + "\n")
        for file, new in _files(folder, config, content).items():
            write_whole(file, to_yaml(new))
    except OSError as error:
        raise _unusable(folder, error) from None


def check_claim(
    folder: Path, config: Any, free: Collection[str] = (), content: Mapping[str, Any] | None = None
) -> None:
    """``claim`` without saving anything: refuses a folder that is another run's.

    Raises:
        ConfigError: names the keys that differ, or says why the folder cannot be read.
    """
    format_version(folder)
    if content is not None and not (folder / CONTENT).exists() and not any(folder.glob("**/samples-*.jsonl")):
        return  # nothing was evaluated there yet
    changes = []
    for file, new in _files(folder, config, content).items():
        if file.is_file():
            old = read_config(folder) if file.name == CONFIG else read_mapping(file, "run's")
            changes += differences(old, new, {*ALWAYS_FREE, *free})
    if changes:
        raise ConfigError(
            f"output: {folder} holds another config's run ({'; '.join(changes[:4])}); "
            "choose another output, or remove that folder"
        )


def _files(folder: Path, config: Any, content: Mapping[str, Any] | None) -> dict[Path, dict[str, Any]]:
    """What a run's folder says of it, by file."""
    files = {folder / CONFIG: to_dict(config)}
    return files if not content else {**files, folder / CONTENT: dict(content)}


def _unusable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(f"output: {folder} cannot be used: {' '.join(str(error).split())}")


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str], prefix: str = "") -> list[str]:
    """What two configs differ in, one line each, but for keys that are free; ``*`` in those is one part of a name."""
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        name = f"{prefix}{key}"
        if any(_matches(name, pattern) for pattern in free) or (prefix == "rows." and not (key in old and key in new)):
            continue  # a row more or less leaves the others' results as they are
        a, b = old.get(key), new.get(key)
        if isinstance(a or b, dict) and isinstance(a or {}, dict) and isinstance(b or {}, dict):
            a, b = a or {}, b or {}
            found += differences(a, b, free, f"{name}.")
        elif a != b and not (a == "auto" and key in CHOSEN_LATER):
            found.append(f"{name} was {a!r}, is {b!r}")
    return found


def _matches(name: str, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(parts) == name.count(".") + 1 and all(p in ("*", n) for p, n in zip(parts, name.split("."), strict=True))
