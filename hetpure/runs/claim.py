"""A run folder belongs to one config and says which."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hetpure import __version__
from hetpure.config import to_dict, to_yaml
from hetpure.errors import ConfigError, RunError
from hetpure.runs import files

ALWAYS_FREE = (
    "output",
    "wandb",
    "data.workers",
    *(f"{row}{key}.source" for row in ("", "rows.*.") for key in ("classifier", "denoiser", "purifier.network")),
    *(f"trainer.{key}" for key in ("devices", "num_nodes", "strategy", "max_steps", "max_time", "val_check_interval")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "enable_progress_bar", "profiler")),
)
"""Keys that never affect results: the output folder, download addresses, logging, processes, when to stop."""

CHOSEN_LATER = ("chunk_size", "recompute")
"""Last parts of keys whose saved ``auto`` means that no run has needed the choice yet; one that makes it may resume."""


def claim(folder: Path, config: Any, free: Collection[str] = (), content: Mapping[str, Any] | None = None) -> None:
    """Saves the resolved config in a run folder, or refuses a folder that belongs to another run.

    Args:
        folder: the run folder; made if needed.
        config: the resolved config, as a mapping or a dataclass; saved as ``config.yaml``.
        free: keys that may change when a run is resumed, because they do not affect results; ``*`` stands for one
            part of a key.
        content: hashes of the files that the config's paths lead to, as nested mappings, saved as ``content.yaml``.
            With it paths may be free: a moved file has the same hash, another file in its place has not.

    Raises:
        ConfigError: names the keys that differ, or says that there is no folder.
        RunError: where the folder cannot be written.
    """
    contents = check_claim(folder, config, free, content)
    run = {"format_version": files.FORMAT_VERSION, "hetpure": __version__}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(folder / files.RUN, json.dumps(run, indent=2) + "\n")
        for name, new in contents.items():
            files.write_whole(folder / name, to_yaml(new))
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("output", "is no folder", found=str(folder)) from None
    except OSError as error:
        raise RunError(f"output: {folder} cannot be written: {files.one_line(error)}") from None


def check_claim(
    folder: Path, config: Any, free: Collection[str] = (), content: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """``claim`` without saving: refuses a folder that belongs to another run, and returns what would be saved, by file.

    Raises:
        ConfigError: names the keys that differ.
    """
    files.format_version(folder)
    contents = {files.CONFIG: to_dict(config), **({files.CONTENT: dict(content)} if content else {})}
    evaluated = content is None or (folder / files.CONTENT).exists() or any(folder.glob("**/samples-*.jsonl"))
    changes = []
    for name, new in contents.items():
        if evaluated and (folder / name).is_file():
            old = files.read_config(folder) if name == files.CONFIG else files.read_mapping(folder / name)
            compared = new if name == files.CONFIG else _hashed_before(old, new)
            changes += differences(old, compared, {*ALWAYS_FREE, *free})
    if changes:
        problem = f"{folder} holds another config's run ({'; '.join(changes[:4])})"
        raise ConfigError("output", f"{problem}; choose another output, or remove that folder")
    return contents


def _hashed_before(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new content without what the old one does not hold: an earlier version may have hashed less."""
    return {
        key: _hashed_before(old[key], value) if isinstance(value, Mapping) and isinstance(old[key], Mapping) else value
        for key, value in new.items()
        if key in old
    }


def differences(old: dict[str, Any], new: dict[str, Any], free: Collection[str], prefix: str = "") -> list[str]:
    """One line for each key in which two configs differ and that is not free (see ``claim``)."""
    lines = []
    for key in [*old, *(k for k in new if k not in old)]:
        name = f"{prefix}{key}"
        if any(_matches(name, pattern) for pattern in free) or (prefix == "rows." and not (key in old and key in new)):
            continue  # rows are independent of each other, so they may come and go
        a, b = old.get(key), new.get(key)
        if isinstance(a or b, dict) and isinstance(a or {}, dict) and isinstance(b or {}, dict):
            lines += differences(a or {}, b or {}, free, f"{name}.")
        elif a != b and not (a == "auto" and key in CHOSEN_LATER):
            lines.append(f"{name} was {a!r}, is {b!r}")
    return lines


def _matches(name: str, pattern: str) -> bool:
    parts, expected = name.split("."), pattern.split(".")
    return len(parts) == len(expected) and all(e in ("*", p) for p, e in zip(parts, expected, strict=True))
