"""Which rows of a config can be evaluated here: all, or it is an error; in a table, those that lack nothing."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning

from hetpure.config.schema import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.build import Loaded, Row, build_rows, content_of
from hetpure.evaluation.config import RunSettings
from hetpure.models.checkpoints import existing_path
from hetpure.models.classifiers import RANDOM
from hetpure.purification.registry import check_network, needs_denoiser
from hetpure.runs.files import CONTENT, read_mapping
from hetpure.runs.read import read_settings
from hetpure.runs.store import RecordStore

OnMissing = Callable[[str, AbsentError], None]

ChooseAuto = Callable[[RunSettings, ImageDataModule, lightning.Trainer, Loaded, OnMissing | None], RunSettings]
"""Puts numbers in place of ``auto``, before rows are built: ``hetpure.planning.auto_settings.choose_auto_settings``."""


@dataclass(frozen=True)
class Resolved:
    """A config's rows, as far as they can be evaluated here."""

    config: RunSettings  # of all rows; without ``auto`` for the rows that are built
    data: ImageDataModule  # opened where any row can be evaluated
    rows: list[Row]  # those that can be, built
    absent: dict[str, list[str]]  # what each other row lacks, by name; nothing where it was not selected


Given = tuple[ImageDataModule, Loaded]
"""Images and every network that a caller in Python has, and a config only describes."""


def resolve_rows(
    config: RunSettings,
    trainer: lightning.Trainer,
    only: Collection[str] | None = None,
    given: Given | None = None,
    choose_auto: ChooseAuto | None = None,
) -> Resolved:
    """Looks for files, then opens the data, then builds the networks; in a table only for rows that lack nothing.

    Args:
        config: the settings.
        trainer: says which process this is, and on which device.
        only: names of the rows to build; None for all.
        given: data and networks that need not be looked for.
        choose_auto: chooses what the settings and the output folder leave open; by default that is an error.

    Raises:
        ConfigError: names the key or file. In a table not for what is absent.
    """
    is_table = bool(config.table.lines)
    data, loaded = given or (ImageDataModule(**to_dict(config.data)), Loaded())
    config = restore_auto_settings(config)  # also of rows that are not built now
    absent: dict[str, list[str]] = {name: [] for name in config.rows if only is not None and name not in only}
    selected = config.without_rows(absent)
    if is_table and given is None:
        absent |= {name: [str(error) for error in errors] for name, errors in missing_files(selected).items()}
    elif given is None:
        check_files(selected)
    if is_table:
        selected = config.without_rows(absent)
        if not selected.rows:
            return Resolved(config, data, [], absent)
    try:
        data.prepare()
    except AbsentError as error:
        if not is_table:
            raise
        return Resolved(config, data, [], {**absent, **{name: [str(error)] for name in selected.rows}})

    def mark_absent(name: str, error: AbsentError) -> None:
        absent[name] = [str(error)]

    on_missing = mark_absent if is_table else None
    if selected.is_open:
        if choose_auto is None:
            raise ConfigError("chunk_size", "auto, also of attack.recompute, is chosen by the commands; give a value")
        selected = choose_auto(selected, data, trainer, loaded, on_missing)
        config = replace(config, chunk_size=selected.chunk_size, rows={**config.rows, **selected.rows})
    return Resolved(config, data, build_rows(selected, data, on_missing, loaded), absent)


def with_sources(resolved: Resolved) -> Resolved:
    """The same without rows that need the images of rows that have none and are not evaluated either.

    Raises:
        ConfigError: where only the selection of rows leaves those out.
    """
    output, samples = Path(resolved.config.output), set(resolved.data.indices) if resolved.rows else set()
    absent, kept = dict(resolved.absent), list[Row]()
    for row in resolved.rows:
        needed = row.attack.source_rows if row.attack is not None else ()
        lacking = [name for name in needed if name in absent and not samples <= RecordStore(output / name).done()]
        for name in lacking:
            if not absent[name]:
                problem = f"needs the images of {name}, which has not been evaluated yet; select that row, too"
                raise ConfigError(f"--rows {row.name}", problem)
        if lacking:
            absent[row.name] = list(dict.fromkeys(reason for name in lacking for reason in absent[name]))
        else:
            kept.append(row)
    return replace(resolved, rows=kept, absent=absent)


def restore_auto_settings(config: RunSettings) -> RunSettings:
    """The settings with what a run in the output folder has chosen in place of ``auto``, if it has."""
    try:
        saved = read_settings(Path(config.output)) if config.is_open else {}
    except ConfigError:
        return config
    chosen = {}
    for name in config.undecided:
        attack = ((saved.get("rows", {}).get(name) or {}) if config.own else saved).get("attack") or {}
        if isinstance(attack.get("recompute"), bool | float):
            chosen[name] = attack["recompute"]
    size = saved.get("chunk_size")
    return config.decide(size if config.chunk_size == "auto" and isinstance(size, int) else None, chosen)


def check_files(config: RunSettings) -> None:
    """Raises AbsentError, with all names, where weights of any row are not here."""
    errors = [config.in_row(name, error) for name, errors in missing_files(config).items() for error in errors]
    if errors:
        first, *others = {str(error): error for error in errors}.values()  # rows share files: each is named once
        first.problem = "; and ".join([first.problem, *map(str, others)])
        first.longest = sum(map(len, map(str, others))) + ConfigError.longest  # whoever fetches one fetches all
        raise first


def missing_files(config: RunSettings) -> dict[str, list[AbsentError]]:
    """The weights that are not here, by row: each file with its key and where it comes from.

    A denoiser without a ``source`` may be a hub id and is left to its loader.
    """
    missing: dict[str, list[AbsentError]] = {}
    for name, row in config.rows.items():
        classifier, files = row.classifier, []
        if classifier["weights"] != RANDOM:
            files.append(("classifier.weights", classifier["weights"], classifier["source"]))
        if needs_denoiser(row.purifier) and row.denoiser.source is not None:
            files.append(("denoiser.path", row.denoiser.path, row.denoiser.source))
        checks = [partial(existing_path, path, key, source) for key, path, source in files if path is not None]
        for check in (*checks, partial(check_network, row.purifier)):
            try:
                check()
            except AbsentError as error:
                missing.setdefault(name, []).append(error)
    return missing


def content_here(resolved: Resolved, output: Path) -> dict[str, Any]:
    """``content_of`` the rows that are built, and what the folder says of absent rows that were evaluated before."""
    content = content_of(resolved.rows, resolved.data)
    try:
        former = read_mapping(output / CONTENT, "run's")["rows"] or {}
    except (ConfigError, KeyError):
        former = {}
    return {**content, "rows": {**{k: v for k, v in former.items() if k in resolved.absent}, **content["rows"]}}
