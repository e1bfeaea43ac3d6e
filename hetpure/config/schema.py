"""Raw mappings checked against dataclasses, by OmegaConf; a constructor's signature as such a dataclass."""

import copy
import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hetpure.errors import ConfigError, require

Settings = TypeVar("Settings")

SECTION = "a section of keys"

LARGEST = 2**63 - 1
"""The largest integer of a config: what 64 bits hold."""

LONGEST = 4096
"""Characters of the longest text of a config, as of a path on Linux."""

DEEPEST = 20
"""Levels of the deepest value."""

_FRACTION = re.compile(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*", re.ASCII)


def structure(schema: type[Settings], raw: Mapping[str, Any], where: str = "") -> Settings:
    """An instance of a dataclass (with OmegaConf's types) from a raw mapping. Numbers may be fractions: ``8/255``.

    Raises:
        ConfigError: for an unknown key, a missing one, a wrong type, a number that is not finite, or what no key takes
            (``check_value``); ``where`` is its section, such as ``purifier``.
    """
    check_value(raw, where)
    raw = _checked(schema, raw, where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(raw))
        return typing.cast(Settings, OmegaConf.to_object(merged))
    except MissingMandatoryValue as error:
        raise ConfigError(dotted(where, error.full_key), "must be given") from None
    except OmegaConfBaseException as error:
        raise ConfigError(dotted(where, error.full_key), one_line(error)) from None


def signature_schema(function: Callable[..., Any], supplied: Collection[str], **extra: tuple[Any, Any]) -> type:
    """The dataclass that a constructor's own signature describes: its annotated arguments are the config's keys.

    Args:
        function: class or function.
        supplied: arguments that the program supplies (networks), which are no keys.
        extra: further keys, as name = (type, default).
    """
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    parameters = inspect.signature(function).parameters.values()
    keys = [p for p in parameters if p.name not in supplied and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [(p.name, hints[p.name]) for p in keys if p.default is p.empty]
    optional = {**extra, **{p.name: (hints[p.name], p.default) for p in keys if p.default is not p.empty}}
    fields = [
        (name, kind, dataclasses.field(default_factory=lambda default=default: copy.copy(default)))
        for name, (kind, default) in optional.items()
    ]
    return dataclasses.make_dataclass(getattr(function, "__name__", "Arguments"), [*required, *fields])


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain containers, a copy, as they are saved."""
    return settings.to_dict() if hasattr(settings, "to_dict") else plain(settings)


def plain(value: Any) -> Any:
    """A copy of dataclasses, mappings and lists as dicts and lists."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def to_yaml(settings: Any) -> str:
    """Settings as YAML text, keys in the schema's order."""
    return yaml.safe_dump(to_dict(settings), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def parse_fraction(value: Any, key: str = "") -> Any:
    """A fraction such as ``8/255`` as a number; any other value as it is."""
    if not (isinstance(value, str) and (fraction := _FRACTION.fullmatch(value))):
        return value
    try:
        return float(fraction[1]) / float(fraction[2])
    except (ValueError, ZeroDivisionError):
        raise ConfigError(key, found=value, accepted="a number; a fraction is written as 8/255") from None


def check_value(value: Any, key: str, depth: int = 0) -> None:
    """Refuses what no key takes: too large an integer, a text that is too long or cannot be saved, too deep a value."""
    if isinstance(value, Mapping | list | tuple) and depth > DEEPEST:
        raise ConfigError(key, f"is nested in more than {DEEPEST} levels")
    if isinstance(value, Mapping):
        for name, part in value.items():
            check_value(name, dotted(key, name), depth + 1)
            check_value(part, dotted(key, name), depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            check_value(part, key, depth + 1)
    elif isinstance(value, int):
        require(abs(value) <= LARGEST, key, value, f"an integer of at most {LARGEST}")
    elif isinstance(value, str):
        accepted = f"UTF-8 text of at most {LONGEST} characters, without NUL"
        require(len(value) <= LONGEST and "\0" not in value and is_utf8(value), key, value, accepted)
    elif isinstance(value, bytes):
        raise ConfigError(key, found=value, accepted="a number, a text, true, false, null, a list or a section")


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; an argument of the command line that is not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def dotted(*parts: object) -> str:
    """A dotted key, without the parts that are empty."""
    return ".".join(str(part) for part in parts if part not in ("", None))


def unknown_key(key: str, accepted: Collection[str], where: str = "") -> ConfigError:
    """The error for a key that a section does not have."""
    close = difflib.get_close_matches(key, accepted, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(dotted(where, key), "unknown key", accepted=", ".join(accepted) + hint)


def one_line(error: Exception) -> str:
    """A library's message on one line, without OmegaConf's remarks about types."""
    lines = (line.strip() for line in str(error).splitlines())
    remark = re.compile(r"(full_key|object_type|reference_type)[:=]")
    return "; ".join(line for line in lines if line and not remark.match(line))


def _checked(schema: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with fractions as numbers; OmegaConf's own messages say little of wrong keys and sections."""
    hints, result = typing.get_type_hints(schema), {}
    for name, value in raw.items():
        key = dotted(where, name)
        if name not in hints:
            raise unknown_key(str(name), hints, where)
        hint = hints[name]
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        sections = [kind for kind in kinds if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict]
        lists = [kind for kind in kinds if typing.get_origin(kind) is list]
        if sections and not isinstance(value, Mapping) and not (value is None and types.NoneType in kinds):
            raise ConfigError(key, found=value, accepted=SECTION)
        if lists and isinstance(value, Mapping):
            raise ConfigError(key, found=value, accepted="a list")
        if sections and dataclasses.is_dataclass(sections[0]) and isinstance(value, Mapping):
            value = _checked(typing.cast(type, sections[0]), value, key)
        elif float in kinds:
            value = parse_fraction(value, key)
        if float in (*kinds, *(kind for each in lists for kind in typing.get_args(each))):
            _check_finite(value, key)
        result[name] = value
    return result


def _check_finite(value: Any, key: str) -> None:
    for number in value if isinstance(value, list) else [value]:
        try:
            is_finite = math.isfinite(float(number))
        except (TypeError, ValueError):  # OmegaConf says what is wrong
            continue
        require(is_finite, key, number, "a finite number")
