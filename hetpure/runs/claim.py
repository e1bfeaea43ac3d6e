"""A run folder belongs to one config and says which."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hetpure import __version__
from hetpure.config import to_dict, to_yaml
from hetpure.errors import ConfigError, RunError
from hetpure.runs import files
from hetpure.runs.names import default_row_name
from hetpure.runs.store import RecordStore

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


def claim(
    folder: Path,
    config: Any,
    free: Collection[str] = (),
    content: Mapping[str, Any] | None = None,
    made_under: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Saves the resolved config in a run folder, or refuses a folder that belongs to another run.

    A damaged file of these is kept under another name, which is printed.

    Args:
        folder: the run folder; made if needed.
        config: the resolved config, as a mapping or a dataclass; saved as ``config.yaml``.
        free: keys that may change when a run is resumed, because they do not affect results; ``*`` stands for one
            part of a key.
        content: hashes of the files that the config's paths lead to, as nested mappings, saved as ``content.yaml``.
            With it paths may be free: a moved file has the same hash, another file in its place has not.
        made_under: ``settings_hash`` of each row's new records, by the folder of its records.

    Returns:
        Hashes under which the records of each of these rows may have been made: the new one, and those of earlier
        versions of this program that wrote the same settings in other words.

    Raises:
        ConfigError: names the keys that differ, or the row whose records were made under other settings; or says that
            the folder is none.
        RunError: where the folder cannot be written.
    """
    contents = check_claim(folder, config, free, content, made_under)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in contents:
            if os.path.lexists(folder / name) and files.undamaged(folder / name) is None:
                with contextlib.suppress(FileNotFoundError):  # another process of this run was first
                    kept = files.set_aside(folder / name)
                    print(f"{folder / name} was damaged; kept as {kept.name}", file=sys.stderr)
        for name, new in contents.items():
            text = json.dumps(new, indent=2) + "\n" if name == files.RUN else to_yaml(new)
            files.write_whole(folder / name, text)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("output", "is no folder", found=str(folder)) from None
    except OSError as error:
        raise RunError(f"output: {folder} cannot be written: {files.one_line(error)}") from None
    return {row: contents[files.RUN]["settings"][row] for row in made_under or {}}


def check_claim(
    folder: Path,
    config: Any,
    free: Collection[str] = (),
    content: Mapping[str, Any] | None = None,
    made_under: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """``claim`` without saving: refuses a folder that belongs to another run, and returns what would be saved, by file.

    Raises:
        ConfigError: names the keys that differ, or the row whose records were made under other settings.
    """
    files.format_version(folder)
    contents = {files.CONFIG: to_dict(config), **({files.CONTENT: dict(content)} if content else {})}
    evaluated = content is None or (folder / files.CONTENT).exists() or any(folder.glob("**/samples-*.jsonl"))
    changes, known = [], set[str]()
    for name, new in contents.items():
        if evaluated and (old := files.undamaged(folder / name)) is not None:
            if name == files.CONFIG:
                old = files.read_config(folder)
                known = _rows_of(old)
            compared = new if name == files.CONFIG else hashed_before(old, new)
            changes += differences(old, compared, {*ALWAYS_FREE, *free})
    if changes:
        problem = f"{folder} holds another config's run ({'; '.join(changes[:4])})"
        raise ConfigError("output", f"{problem}; choose another output, or remove that folder")
    accepted = _accepted(folder, made_under or {}, known)
    for row, hashes in accepted.items():
        _check_records(folder, row, hashes, _row(row) in known)
    run = {"format_version": files.FORMAT_VERSION, "hetpure": __version__}
    former = files.settings_of(folder)
    if accepted or former:
        run["settings"] = {**former, **accepted}
    return {files.RUN: run, **contents}


def settings_hash(settings: Any, free: Collection[str] = ()) -> str:
    """A hash of all settings of a row but the free ones (see ``claim``), 16 hexadecimal digits."""
    bound = _without(to_dict(settings), {*ALWAYS_FREE, *free})
    text = json.dumps(bound, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _rows_of(config: Mapping[str, Any]) -> set[str]:
    """Names of the rows of a saved config."""
    return set(config.get("rows") or [default_row_name(str((config.get("purifier") or {}).get("name")))])


def _row(folder: str) -> str:
    """The row whose records, or whose variant's, are in a folder."""
    return folder.partition("/honesty/")[0]


def _accepted(folder: Path, made_under: Mapping[str, str], known: Collection[str]) -> dict[str, list[str]]:
    """Hashes by row. Those of before count for rows of which the saved config says the settings: they are the same."""
    former = files.settings_of(folder)
    accepted = {}
    for row, new in made_under.items():
        old = former.get(row, [])
        as_before = _row(row) in known or new in old
        accepted[row] = [new, *(each for each in old if each != new)] if as_before else [new]
    return accepted


def _check_records(folder: Path, row: str, accepted: Collection[str], known: bool) -> None:
    """Refuses a row none of whose records was made under these settings; single ones are for ``mend``."""
    made = set[str]()
    for record in RecordStore(folder / row).records():
        if record.settings in accepted or (known and record.settings == ""):
            return
        made.add(record.settings)
    if not made:
        return
    problem = f"the records of row {row} in {folder} were made under other settings"
    if "" in made:
        problem = f"the records of row {row} in {folder} do not say under which settings they were made"
    if files.undamaged(folder / files.CONFIG) is None:
        problem += f", and {files.CONFIG} is missing or damaged"
    raise ConfigError("output", f"{problem}; choose another output, or remove that folder")


def _without(settings: Any, free: Collection[str], prefix: str = "") -> Any:
    if not isinstance(settings, Mapping):
        return settings
    named = {key: f"{prefix}{key}" for key in settings}
    bound = {key: name for key, name in named.items() if not any(_matches(name, pattern) for pattern in free)}
    return {key: _without(settings[key], free, f"{name}.") for key, name in bound.items()}


def hashed_before(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new content without what the old one does not hold: an earlier version may have hashed less."""
    return {
        key: hashed_before(old[key], value) if isinstance(value, Mapping) and isinstance(old[key], Mapping) else value
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
        if key not in old and (b is None or b is False or b in ([], {})):
            continue  # an earlier version did not have this key; it did what the key switched off means
        if isinstance(a or b, dict) and isinstance(a or {}, dict) and isinstance(b or {}, dict):
            lines += differences(a or {}, b or {}, free, f"{name}.")
        elif a != b and not (a == "auto" and key in CHOSEN_LATER):
            lines.append(f"{name} was {a!r}, is {b!r}")
    return lines


def _matches(name: str, pattern: str) -> bool:
    parts, expected = name.split("."), pattern.split(".")
    return len(parts) == len(expected) and all(e in ("*", p) for p, e in zip(parts, expected, strict=True))
