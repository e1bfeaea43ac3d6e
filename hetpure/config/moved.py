"""Images and weights that have moved since a run: where its saved config finds them now."""

from collections.abc import Mapping
from typing import Any

from hetpure.config import exists, merge, parse_overrides, resolve_path
from hetpure.errors import UNSET

PATHS = ("data.root", "classifier.weights", "denoiser.path", "purifier.network.weights", "attack.folder")
"""Keys with paths of images and weights, which may move: ``content.yaml`` holds hashes of their content."""


def with_moved(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of a saved config with one path changed: its own, and those of rows that had it or whose file is gone."""
    key = override.split("=", 1)[0]
    change, old, rows = parse_overrides([override]), _value(raw, key), dict(raw["rows"])
    for name, row in rows.items():
        own = _value(row, key)
        if isinstance(own, str) and (own == old or not exists(resolve_path(own))):
            rows[name] = merge(row, change)
    return {**(raw if old is UNSET else merge(raw, change)), "rows": rows}


def _value(settings: Any, key: str) -> Any:
    """The value of a dotted key; ``UNSET`` where there is none, for null is a value."""
    for part in key.split("."):
        settings = settings.get(part, UNSET) if isinstance(settings, Mapping) else UNSET
    return settings
