"""Files of a run folder: their names, the version of the format, and how they are read and written."""

import contextlib
import itertools
import json
import os
import uuid
from pathlib import Path
from typing import Any

import yaml

from hetpure.config.renamed import upgrade_config
from hetpure.errors import ConfigError, require

FORMAT_VERSION = 4
"""Version of the folders that this program writes. A folder without ``run.json`` has version 1."""

RUN, CONFIG, CONTENT, RESULTS = "run.json", "config.yaml", "content.yaml", "results.json"
SAMPLES, PICTURES = "samples.npz", "pictures.npz"


def format_version(folder: Path) -> int:
    """The version of a folder's format; this program's where ``run.json`` is damaged, for version 1 has none.

    Raises:
        ConfigError: if it is newer than this program, or ``run.json`` says something else.
    """
    file = folder / RUN
    if not file.is_file():
        return 1
    if (content := undamaged(file)) is None:
        return FORMAT_VERSION
    version: Any = content.get("format_version")
    require(type(version) is int and version >= 1, f"{file}: format_version", version, "an integer of at least 1")
    if version > FORMAT_VERSION:
        problem = f"has format version {version}, newer than the {FORMAT_VERSION} that this hetpure reads"
        raise ConfigError(str(folder), f"{problem}; update hetpure")
    return version


def settings_of(folder: Path) -> dict[str, list[str]]:
    """Hashes of the settings of a folder's records, by row, as far as ``run.json`` has any: see ``claim``."""
    settings = (undamaged(folder / RUN) or {}).get("settings")
    rows = settings.items() if isinstance(settings, dict) else ()
    return {row: hashes for row, hashes in rows if isinstance(hashes, list) and all(type(h) is str for h in hashes)}


def read_config(folder: Path, whose: str = "run's") -> dict[str, Any]:
    """The saved config of a run of any kind, upgraded if its format is older; raises as ``read_mapping`` does."""
    config = read_mapping(folder / CONFIG, whose)
    return upgrade_config(config) if format_version(folder) == 1 else config


def read_mapping(file: Path, whose: str = "run's") -> dict[str, Any]:
    """Reads a YAML or JSON file that holds a mapping; ``whose`` says for errors what has such a file: ``evaluation's``.

    Raises:
        ConfigError: if it is missing, cannot be read, or holds something else.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise OSError("it is no regular file")
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if isinstance(content, dict):
            return content
        reason = f"{file.name} is not a mapping of keys"
    except FileNotFoundError:
        reason = f"it has no {file.name}"
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = f"{file.name} cannot be read: {one_line(error)}"
    article = "an" if whose[0] in "aeiou" else "a"
    raise ConfigError(str(file.parent), f"is not {article} {whose} folder: {reason}")


def undamaged(file: Path) -> dict[str, Any] | None:
    """``read_mapping``; None where it cannot be read."""
    try:
        return read_mapping(file)
    except ConfigError:
        return None


def write_whole(file: Path, content: str | bytes, part: Path | None = None) -> None:
    """Writes a file, first as ``part`` beside it, so that at every instant it is either the old one or the new one.

    Raises:
        OSError: if it cannot be written; the old one stays.
    """
    part = part or file.with_name(f"{file.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def free_name(path: Path) -> Path:
    """A name beside a damaged file, under which it can be kept."""
    numbers = itertools.count(2)
    free = path.with_name(f"{path.name}.damaged")
    while os.path.lexists(free):
        free = path.with_name(f"{path.name}.damaged-{next(numbers)}")
    return free


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder, and returns its new path.

    Raises:
        OSError: if it cannot be renamed.
    """
    return path.rename(free_name(path))


def one_line(error: Exception) -> str:
    """An error's message without line breaks; the system's own words for an ``OSError`` that has them."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
