"""Configuration: YAML files and ``key=value`` overrides, checked against dataclass schemas by OmegaConf.

Only the commands know configs. They read one, build the objects of the library from it with plain arguments, and save
the resolved config beside their results.
"""

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from hetpure.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]

PROJECT_ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""Folder of ``configs`` and ``checkpoints``: the installed package, or the repository."""
CONFIG_DIR = PROJECT_ROOT / "configs"

METHODS = ("classifier", "purifier", "attack", "gradient")
"""Sections whose keys belong to what their ``name`` says."""

_FRACTION = re.compile(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*")


@dataclasses.dataclass
class DataConfig:
    """Which images. See ``hetpure.data``."""

    name: str = "digits"
    root: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    subset: int | None = None
    subset_seed: int = 0
    subset_skip: int = 0
    batch_size: int = 16
    workers: int = 0
    flip: bool = False
    crop_padding: int = 0
    image_size: int | None = None


@dataclasses.dataclass
class WandbConfig:
    """Where a run is logged; ``auto`` is online where an account is configured, else offline."""

    project: str = "hetpure"
    mode: typing.Literal["auto", "online", "offline", "disabled"] = "auto"
    name: str | None = None


def config_file(name: str) -> Path:
    """The file that ``--config NAME`` means: a path as it stands, or a bare name in ``configs/``.

    Raises:
        ConfigError: where there is no such file; names the closest ones.
    """
    for path in (Path(name), CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
        if path.is_file():
            return path
    known = config_names()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise ConfigError(f"--config {name}: no such file, here or in configs/; did you mean {', '.join(close)}?")


def config_names() -> list[str]:
    """What ``--config`` finds in ``configs/``, without the pieces that configs are composed of and W&B's own files."""
    names = (p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(("pieces/", "sweeps/wandb/")))


def resolve_path(path: str | Path) -> Path:
    """A path from a config: as it stands, else relative to the project (so shipped checkpoints load from anywhere)."""
    path = Path(path).expanduser()
    shipped = PROJECT_ROOT / path
    return shipped if not path.exists() and shipped.exists() else path


def read_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The merged raw mapping of a config file, the files it includes, and ``key=value`` overrides.

    A top-level ``include: [other.yaml, ..]`` names files (beside the including one, or in ``configs/``) that are merged
    first, in order. So does an ``include`` in a row or in a table's column: what the files hold is the row's then.

    Raises:
        ConfigError: for a missing or malformed file, or an override that is not ``key=value``.
    """
    return merge(_read_file(config_file(name)), parse_overrides(overrides))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", ..]`` as a nested mapping; values are YAML."""
    for item in overrides:
        if not re.fullmatch(r"[\w.\-/ ]+=.*", item, re.DOTALL):
            raise ConfigError(f"{item!r} is not an override: write key=value, such as attack.eps=8/255")
    try:
        plain = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
        return typing.cast(dict[str, Any], plain)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"overrides {' '.join(overrides)!r}: {_one_line(error)}") from None


def merge(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, later ones over earlier ones.

    A classifier, purifier or attack that changes its ``name`` starts afresh: keys of another one mean nothing to it. A
    section that changes its ``weights`` or ``path`` loses the ``source`` that it had: that was another file's.
    """
    result = dict(base)
    for change in changes:
        for key, value in change.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                another = key in METHODS and value.get("name", old.get("name")) != old.get("name", value.get("name"))
                other_file = any(value.get(k, old.get(k)) != old.get(k) for k in ("weights", "path"))
                kept = {k: v for k, v in old.items() if not (other_file and k == "source")}
                result[key] = dict(value) if another else merge(kept, value)
            else:
                result[key] = value
    return result


def structure(schema: type, raw: Mapping[str, Any], where: str = "") -> DictConfig:
    """Checks a raw mapping against a dataclass and fills in its defaults. Numbers may be fractions: ``8/255``.

    Args:
        schema: dataclass with OmegaConf's types.
        raw: the mapping.
        where: dotted prefix for messages, such as ``purifier``.

    Raises:
        ConfigError: for an unknown key or a wrong type, naming the key, what was found and what is accepted.
    """
    for field in dataclasses.fields(schema):
        value = raw.get(field.name)
        if dataclasses.is_dataclass(field.type) and field.name in raw and not isinstance(value, Mapping):
            key = ".".join(filter(None, (where, field.name)))
            raise ConfigError(f"{key}: found {value!r}, accepted is a section of keys")
    raw = _fractions(schema, raw, where)
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(dict(raw)))
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return typing.cast(DictConfig, config)
    except ConfigKeyError as error:
        raise ConfigError(_unknown_key(schema, error, where)) from None
    except MissingMandatoryValue as error:
        raise ConfigError(f"{'.'.join(filter(None, (where, error.full_key or '')))}: must be given") from None
    except OmegaConfBaseException as error:
        key = ".".join(filter(None, (where, error.full_key or "")))
        raise ConfigError(f"{key}: {_one_line(error)}") from None
    except TypeError:  # a list where keys are meant, or keys where a list is meant
        name, value = next((k, v) for k, v in raw.items() if not _merges(schema, {k: v}))
        key = ".".join(filter(None, (where, name)))
        accepted = "a list" if isinstance(value, Mapping) else "a section of keys"
        raise ConfigError(f"{key}: found {value!r}, accepted is {accepted}") from None


def signature_schema(function: Callable[..., Any], supplied: Collection[str], **extra: tuple[Any, Any]) -> type:
    """The dataclass that a constructor's own signature describes: its arguments are the config's keys.

    Args:
        function: class or function with annotated arguments.
        supplied: arguments that the program supplies (networks), which are no keys.
        extra: further keys, as name = (type, default).

    Returns:
        A dataclass type named after the function.
    """
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(target)
    fields: list[tuple[str, Any, Any]] = [(name, kind, _field(default)) for name, (kind, default) in extra.items()]
    for name, parameter in inspect.signature(function).parameters.items():
        if name in supplied or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        fields.append((name, hints[name], _field(parameter.default)))
    fields.sort(
        key=lambda f: f[2].default is dataclasses.MISSING and f[2].default_factory is dataclasses.MISSING, reverse=True
    )
    return dataclasses.make_dataclass(getattr(function, "__name__", "Arguments"), fields)


def to_dict(config: DictConfig) -> dict[str, Any]:
    """A resolved config as plain containers."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def to_yaml(config: Mapping[str, Any] | DictConfig) -> str:
    """A resolved config as YAML text, keys in the schema's order."""
    plain = to_dict(config) if isinstance(config, DictConfig) else dict(config)
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def _merges(schema: type, raw: Mapping[str, Any]) -> bool:
    try:
        OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(dict(raw)))
    except TypeError:
        return False
    return True


def _field(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return dataclasses.field()
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default))
    return dataclasses.field(default=default)


def _read_file(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in including:
        raise ConfigError(f"{path}: includes itself")
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {_one_line(error)}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f"{path}: a config is a mapping of keys, found {type(raw).__name__}")
    return _with_included(typing.cast(dict[str, Any], raw), path, including, nested=("rows", "table"))


def _with_included(
    section: dict[str, Any], path: Path, including: tuple[Path, ...], nested: Collection[str]
) -> dict[str, Any]:
    """A section over the files that it includes, and so are the sections inside those that ``nested`` names."""
    raw = dict(section)
    parts = raw.pop("include", None) or []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{path}: include: found {parts!r}, accepted is a list of file names")
    result: dict[str, Any] = {}
    for part in parts:
        beside = path.parent / part
        result = merge(
            result, _read_file(beside if beside.is_file() else config_file(part), (*including, path.resolve()))
        )
    for key in nested:
        if isinstance(inner := raw.get(key), dict):
            raw[key] = _with_included(inner, path, including, nested=tuple(inner))
    return merge(result, raw)


def _fractions(schema: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with fractions as numbers, where the schema wants a number."""
    hints, result = typing.get_type_hints(schema), dict(raw)
    for name, value in raw.items():
        kind, key = hints.get(name), ".".join(filter(None, (where, name)))
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
            result[name] = _fractions(kind, value, key)
        elif isinstance(value, str) and float in (kind, *typing.get_args(kind)) and _FRACTION.fullmatch(value):
            numerator, denominator = value.split("/")
            try:
                result[name] = float(numerator) / float(denominator)
            except (ValueError, ZeroDivisionError):
                raise ConfigError(f"{key}: {value!r} is no number: a fraction is written as 8/255") from None
    return result


def _unknown_key(schema: type, error: ConfigKeyError, where: str) -> str:
    full = error.full_key or ""
    *parents, key = re.sub(r"\[[^]]*\]", "", full).split(".")
    node: Any = OmegaConf.structured(schema)
    for parent in parents:
        node = node[parent]
    accepted = [str(k) for k in node]
    close = difflib.get_close_matches(key, accepted, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{'.'.join(filter(None, (where, full)))}: unknown key; accepted are {', '.join(accepted)}{hint}"


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(
        line for line in lines if line and not re.match(r"(full_key|object_type|reference_type)[:=]", line)
    )
