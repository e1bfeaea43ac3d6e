"""Raw mappings checked against dataclasses, by OmegaConf; a constructor's signature as such a dataclass."""

import copy
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hetpure.errors import ConfigError

Settings = TypeVar("Settings")

SECTION = "a section of keys"

_FRACTION = re.compile(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*")


def structure(schema: type[Settings], raw: Mapping[str, Any], where: str = "") -> Settings:
    """An instance of a dataclass (with OmegaConf's types) from a raw mapping. Numbers may be fractions: ``8/255``.

    Raises:
        ConfigError: for an unknown key, a missing one or a wrong type; ``where`` is its section, such as ``purifier``.
    """
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
        result[name] = value
    return result
