"""Configuration: YAML files and ``key=value`` overrides, checked against dataclasses by OmegaConf.

The commands read a config, build the objects of the library from it with plain arguments, and save the resolved config
beside their results. Nothing here needs torch.
"""

import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from omegaconf import OmegaConf

from hetpure.config.schema import one_line, signature_schema, structure, to_dict, to_yaml
from hetpure.errors import ConfigError, require

__all__ = [
    "CONFIG_DIR", "METHODS", "PROJECT_ROOT", "DataConfig", "WandbConfig", "config_file", "config_names", "exists",
    "expand_home", "merge", "output_folder", "parse_overrides", "read_config", "resolve_path", "signature_schema",
    "structure", "to_dict", "to_yaml",
]  # fmt: skip

_PACKAGE = Path(__file__).resolve().parents[1]

PROJECT_ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""Folder of ``configs`` and ``checkpoints``: the installed package, or the repository."""
CONFIG_DIR = PROJECT_ROOT / "configs"

METHODS = ("classifier", "purifier", "attack", "gradient", "objective")
"""Sections whose keys depend on their ``name``."""


@dataclasses.dataclass(frozen=True)
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
    check: bool = False


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Where a run is logged; ``auto`` is online where an account is configured, else offline."""

    project: str = "hetpure"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    name: str | None = None


MAX_VALUES = 100_000
"""Values of a config file or override: a few lines of YAML with anchors could stand for billions."""


def expand_home(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` at its start replaced; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises RuntimeError for an unknown user


def output_folder(output: str) -> str:
    """The key ``output`` with ``~`` and ``~user`` replaced; refuses what no file system takes."""
    expanded = os.path.expanduser(output)  # noqa: PTH111
    require(output != "" and expanded[:1] != "~", "output", output, "a folder; ~ and ~user are home directories")
    fits = all(len(part.encode()) <= 255 for part in expanded.split("/")) and not re.search(r"[\x00-\x1f\x7f]", output)
    require(fits, "output", output, "a folder; parts of its path have at most 255 bytes and no control characters")
    return expanded


def config_file(name: str) -> Path:
    """The file that ``--config NAME`` means: a path, or a name in ``configs/``."""
    for path in (expand_home(name), CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
        if exists(path):
            if path.is_file():
                return path
            raise ConfigError(f"--config {name}", "is no regular file", accepted="a YAML file, or a name in configs/")
    known = config_names()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise ConfigError(f"--config {name}", f"no such file, here or in configs/; did you mean {', '.join(close)}?")


def config_names() -> list[str]:
    """What ``--config`` finds in ``configs/``, without the pieces that configs are composed of and W&B's own files."""
    names = (p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(("pieces/", "sweeps/wandb/")))


def resolve_path(path: str | Path) -> Path:
    """A path from a config: as it is, else relative to the project (so included checkpoints load from anywhere)."""
    path = expand_home(path)
    included = PROJECT_ROOT / path
    return included if not exists(path) and exists(included) else path


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False also for a path that cannot be, such as one that is too long."""
    return os.path.exists(path)  # noqa: PTH110  Path's own raises OSError


def read_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The merged raw mapping of a config file, the files it includes, and ``key=value`` overrides.

    A top-level ``include: [other.yaml, ..]`` names files (beside the including one, or in ``configs/``) that are merged
    first, in order. An ``include`` in a row or in a table's column likewise merges files into that row or column.
    """
    return merge(_read_file(config_file(name)), parse_overrides(overrides))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", ..]`` as a nested mapping; values are YAML."""
    result = OmegaConf.create()
    for item in overrides:
        if not re.fullmatch(r"[\w.\-/ ]+=.*", item, re.DOTALL):
            raise ConfigError(item, "is not an override: write key=value, such as attack.eps=8/255")
        try:
            _check_anchors(item.partition("=")[2], item)
            result.merge_with_dotlist([item])
        except ConfigError:
            raise
        except Exception as error:  # PyYAML's constructors raise what they like, such as KeyError for !!bool abc
            raise ConfigError(item, one_line(error)) from None
    return cast(dict[str, Any], OmegaConf.to_container(result))


def merge(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, later ones over earlier ones.

    A classifier, purifier or attack that changes its ``name`` loses all its keys: they were another method's. A section
    that changes its ``weights`` or ``path`` loses its ``source``: it was another file's.
    """
    result = dict(base)
    for change in changes:
        for key, value in change.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                renamed = key in METHODS and value.get("name", old.get("name")) != old.get("name", value.get("name"))
                other_file = any(value.get(k, old.get(k)) != old.get(k) for k in ("weights", "path"))
                kept = {k: v for k, v in old.items() if not (other_file and k == "source")}
                result[key] = dict(value) if renamed else merge(kept, value)
            else:
                result[key] = value
    return result


def _read_file(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in including:
        raise ConfigError(str(path), "includes itself")
    try:
        _check_anchors(path.read_text(encoding="utf-8"), str(path))
        raw = OmegaConf.to_container(OmegaConf.load(path))
    except ConfigError:
        raise
    except Exception as error:  # PyYAML's constructors raise what they like
        raise ConfigError(str(path), f"cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(str(path), f"is a {type(raw).__name__}, and a config is a mapping of keys")
    return _with_included(cast(dict[str, Any], raw), path, including, nested=("rows", "table"))


def _check_anchors(text: str, where: str) -> None:
    """Refuses YAML whose anchors stand for too many values, or for themselves; no value is constructed."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node | None) -> int:
        """Values in a node; a node with an anchor is looked at once and counts wherever it is used."""
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in counts:
            counts[id(node)] = MAX_VALUES + 1  # of a node that contains itself
            parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            counts[id(node)] = 1 + sum(map(count, parts))
        return counts[id(node)]

    if "&" in text and count(yaml.compose(text, Loader=yaml.SafeLoader)) > MAX_VALUES:
        raise ConfigError(where, "its anchors stand for too much", accepted=f"at most {MAX_VALUES:,} values")


def _with_included(
    section: dict[str, Any], path: Path, including: tuple[Path, ...], nested: Collection[str]
) -> dict[str, Any]:
    """A section merged over the files that it includes; likewise the sections in it that ``nested`` names."""
    raw = dict(section)
    parts = raw.pop("include", None) or []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{path}: include", found=parts, accepted="a list of file names")
    result: dict[str, Any] = {}
    for part in parts:
        beside = path.parent / part
        file = beside if exists(beside) and beside.is_file() else config_file(part)
        result = merge(result, _read_file(file, (*including, path.resolve())))
    for key in nested:
        if isinstance(inner := raw.get(key), dict):
            raw[key] = _with_included(inner, path, including, nested=tuple(inner))
    return merge(result, raw)
