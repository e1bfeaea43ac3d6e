"""Code that a run folder names: it is run only where the user names it as well."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetpure.config import parse_overrides
from hetpure.config.moved import PATHS, with_moved
from hetpure.config.plugins import entry_points, is_target
from hetpure.errors import ConfigError

SECTIONS = ("classifier", "denoiser", "purifier", "attack", "ensemble")
"""Sections from which networks, purifiers and attacks are built."""

NO_CODE = ("source", "weights", "path", "folder", "folders", "rows")
"""Keys whose values may have a colon: addresses, and files that are read as tensors or pictures."""

GROUPS = {
    "purifier.name": "hetpure.purifiers",
    "attack.process.name": "hetpure.purifiers",
    "attack.name": "hetpure.attacks",
    "attack.gradient": "hetpure.gradients",
    "attack.gradient.name": "hetpure.gradients",
    "attack.loss": "hetpure.losses",
    "denoiser.format": "hetpure.formats",
}
"""Groups of entry points by the key that names one: an installed package's code is code, too."""

FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of timm's models that make timm read files in its own way."""

Place = tuple[str | int, ...]


def allowed_config(config: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """A saved config with the user's overrides, if the user has named all code that it names.

    Args:
        config: of a run folder, with ``rows``; it is not changed.
        overrides: ``key=value``: where images and weights are now (``PATHS``), or the code that the folder names, such
            as ``classifier.name=my.py:Net``. The file may be in another folder than at that time.

    Returns:
        The config, and the names that the folder gives to code, by those that the user gives.

    Raises:
        ConfigError: for any other key, other code, or code that the user has not named.
    """
    raw = dict(config)
    named, names_by_given = dict(_named_code(raw)), {}
    for override in overrides:
        key = override.split("=", 1)[0]
        given = parse_overrides([override])
        if key in PATHS:
            raw = with_moved(raw, override)
            continue
        value: Any = given
        for part in key.split("."):
            value = value[part]
        places = [place for place in named if _key(place) == key]
        if not places:
            keys = ", ".join([*PATHS, *sorted({_key(place) for place in named})])
            raise ConfigError(key, "would change what the run folder says", accepted=keys)
        same = [place for place in places if _same(value, named[place])]
        if not same:
            names = ", ".join(repr(named[place]) for place in places)
            raise ConfigError(key, found=value, accepted=f"what the run folder names: {names}")
        for place in same:
            raw = _replaced(raw, place, value)
            names_by_given[value] = named.pop(place)
    for place, value in named.items():
        problem = "which is code that the run folder names; it runs only if you name it, too"
        raise ConfigError(_key(place), problem, found=value, accepted=f"{_key(place)}=.. on the command line")
    return raw, names_by_given


def _named_code(config: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Every value that names code, with its place in the config."""
    for section in SECTIONS:
        yield from _leaves(config.get(section), (section,))
        for name, row in config["rows"].items():
            yield from _leaves((row or {}).get(section), ("rows", name, section))


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(part, (*place, key))
        return
    key = next(part for part in reversed(place) if isinstance(part, str))  # of a list, the list's
    is_code = is_target(value) and key not in NO_CODE
    is_offered = isinstance(value, str) and (group := GROUPS.get(_key(place))) and value in entry_points(group)
    is_file = value is not None and "arguments" in place and any(part in FILES for part in place)
    if is_code or is_offered or is_file:
        yield place, value


def _key(place: Place) -> str:
    """The dotted key of a place, without its row."""
    return ".".join(map(str, place[2:] if place[0] == "rows" else place))


def _same(given: Any, named: Any) -> bool:
    """Whether both are the same name; a file's folder does not count."""
    if isinstance(given, str) and isinstance(named, str) and ".py:" in named:
        return Path(given).name == Path(named).name
    return given == named


def _replaced(value: Any, place: Place, new: Any) -> Any:
    """A copy with another value in one place."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[place[0]] = _replaced(copy[place[0]], place[1:], new)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return copy
