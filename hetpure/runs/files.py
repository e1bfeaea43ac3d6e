"""Files of a run folder: their names, the version of the format, and how they are read and written."""

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import yaml

from hetpure.config.renamed import upgrade_config
from hetpure.errors import ConfigError

FORMAT_VERSION = 2
"""Of the run folders that this program writes. A folder without ``run.json`` has version 1."""

RUN, CONFIG, CONTENT, RESULTS = "run.json", "config.yaml", "content.yaml", "results.json"
SAMPLES, PICTURES = "samples.npz", "pictures.npz"


def format_version(folder: Path) -> int:
    """The version of a folder's format.

    Raises:
        ConfigError: where it is newer than this program, or ``run.json`` cannot be read.
    """
    file = folder / RUN
    if not file.is_file():
        return 1
    version = read_mapping(file, "run's").get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ConfigError(f"{file}: format_version is {version!r}, accepted is a whole number from 1 on")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{folder}: has format version {version}, newer than the {FORMAT_VERSION} that this hetpure reads; "
            "update hetpure"
        )
    return version


def read_config(folder: Path, whose: str = "run's") -> dict[str, Any]:
    """The saved config of a run of any kind, upgraded if its format is older; raises as ``read_mapping`` does."""
    config = read_mapping(folder / CONFIG, whose)
    return upgrade_config(config) if format_version(folder) == 1 else config


def read_mapping(file: Path, whose: str) -> dict[str, Any]:
    """A YAML or JSON file of a run folder that holds a mapping.

    Args:
        file: to be read.
        whose: what has such a file, such as ``run's``, for the error.

    Raises:
        ConfigError: where it is missing, cannot be read, or holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if isinstance(content, dict):
            return content
        reason = f"{file.name} holds no keys"
    except FileNotFoundError:
        reason = f"it has no {file.name}"
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = f"{file.name} cannot be read: {' '.join(str(error).split())}"
    raise ConfigError(f"{file.parent}: is no {whose} folder: {reason}")


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file so that it is the old one or the new one at every instant.

    Raises:
        OSError: where it cannot be written; the old one stays.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
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
