"""What of a config can be evaluated here: all of it, or an error; in a table, what is not absent."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from omegaconf import DictConfig

from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.build import Loaded, Row, build_rows, content_of
from hetpure.evaluation.config import in_row, row_configs
from hetpure.models.checkpoints import existing_path
from hetpure.planning.auto_settings import apply_auto_settings, choose_auto_settings, restore_auto_settings
from hetpure.purification.registry import check_network, needs_denoiser
from hetpure.runs.files import CONTENT, read_mapping


@dataclass(frozen=True)
class Available:
    """What is here of a config.

    Attributes:
        data: the images; opened where any row can be evaluated.
        rows: those rows, built.
        absent: what each other row lacks, by name; rows that were not asked for lack nothing, and have no reasons.
    """

    data: ImageDataModule
    rows: list[Row]
    absent: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What a caller in Python has in hand, and a config only describes.

    Attributes:
        data: the images.
        loaded: every network.
    """

    data: ImageDataModule
    loaded: Loaded


def available(
    config: DictConfig, place: lightning.Trainer, only: Collection[str] | None = None, given: Given | None = None
) -> Available:
    """Looks for files, then opens the data, then builds the networks; in a table only as far as there is need to.

    Args:
        config: complete; what it leaves to be chosen (``auto``) is chosen here, for the rows that are built.
        place: see ``choose_auto_settings``.
        only: names of the rows to build; None for all.
        given: data and networks that need not be looked for.

    Raises:
        ConfigError: names the key or file. In a table not for what is absent.
    """
    data = given.data if given else ImageDataModule(**to_dict(config.data))
    loaded = given.loaded if given else Loaded()
    apply_auto_settings(config, restore_auto_settings(config))  # also of rows that are not built now
    absent = {str(name): [] for name in config.rows if only is not None and name not in only}
    left = without_rows(config, absent)
    if not config.table.lines:
        if given is None:
            check_files(left)
        data.prepare()
    else:
        absent |= missing_files(left)
        left = without_rows(config, absent)
        if not left.rows:
            return Available(data, [], absent)
        try:
            data.prepare()
        except AbsentError as error:
            return Available(data, [], {**absent, **{str(name): [str(error)] for name in left.rows}})

    def mark_absent(name: str, error: AbsentError) -> None:
        absent[name] = [str(error)]

    on_missing = mark_absent if config.table.lines else None
    chosen = choose_auto_settings(left, data, place, loaded, on_missing)
    for settings in (config, left):
        apply_auto_settings(settings, chosen)
    return Available(data, build_rows(left, data, on_missing, loaded), absent)


def select_rows(config: DictConfig, names: Collection[str]) -> list[str]:
    """The rows of a complete config that some names mean: a row's own, or a table's method with all its columns.

    Raises:
        ConfigError: for a name that means no row; names the closest.
    """
    known = [str(name) for name in config.rows] or [str(config.purifier.name)]
    selected = []
    for name in names:
        meant = [row for row in known if row == name or (config.table.lines and row.startswith(f"{name}/"))]
        if not meant:
            methods = dict.fromkeys(row.partition("/")[0] if config.table.lines else row for row in known)
            close = difflib.get_close_matches(name, [*methods, *known], n=1) or methods
            raise ConfigError(f"--rows {name}: is no row of this config; did you mean {', '.join(close)}?")
        selected += meant
    return selected


def without_rows(config: DictConfig, names: Collection[str]) -> DictConfig:
    """A copy of a complete config without some of its rows."""
    left = config.copy()
    left.rows = {name: row for name, row in config.rows.items() if name not in names}
    return left


def check_files(config: DictConfig) -> None:
    """Looks for the weights of every row.

    Raises:
        AbsentError: on one line, each missing file with its key and where it comes from.
    """
    said: dict[str, None] = {}  # rows share files: each is said once, in order
    for name, missing in missing_files(config).items():
        for error in missing:
            said[str(in_row(name, config.rows.get(name) or {}, AbsentError(error)))] = None
    if said:
        raise AbsentError("; and ".join(said))


def missing_files(config: DictConfig) -> dict[str, list[str]]:
    """The weights that are not here, by row: each file with its key and where it comes from.

    A denoiser without a ``source`` may be a hub id and is left to its loader.
    """
    missing: dict[str, list[str]] = {}
    for name, row in row_configs(config).items():
        wanted = [("classifier.weights", row.classifier.weights, row.classifier.source)]
        if needs_denoiser(to_dict(row.purifier)) and row.denoiser.source is not None:
            wanted.append(("denoiser.path", row.denoiser.path, row.denoiser.source))
        checks = [partial(existing_path, path, key, source) for key, path, source in wanted if path is not None]
        for check in (*checks, partial(check_network, to_dict(row.purifier))):
            try:
                check()
            except AbsentError as error:
                missing.setdefault(name, []).append(str(error))
    return missing


def content_here(found: Available, output: Path) -> dict[str, Any]:
    """``content_of`` what is here; what is known of rows that were evaluated once and lack something now is kept."""
    content = content_of(found.rows, found.data)
    try:
        former = read_mapping(output / CONTENT, "run's")["rows"] or {}
    except (ConfigError, KeyError):
        former = {}
    return {**content, "rows": {**{k: v for k, v in former.items() if k in found.absent}, **content["rows"]}}
