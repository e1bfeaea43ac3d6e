"""A run's folder, opened again: its config, its networks, its images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hetpure.config import merge, parse_overrides, resolve_path, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.evaluation.build import Row, build_rows, content_of
from hetpure.evaluation.config import restore
from hetpure.evaluation.content import PATHS
from hetpure.noise import Draws, defense_draws
from hetpure.purification.base import Purifier
from hetpure.runs.claim import differences
from hetpure.runs.files import CONFIG, CONTENT, RESULTS, read_mapping
from hetpure.runs.read import read_settings
from hetpure.runs.records import Record

ABSENT: Any = object()
"""The value of a key that is not there; null is a value."""


@dataclass(frozen=True)
class Images:
    """Finished images of one row.

    Attributes:
        name: of the row.
        settings: its completed ``purifier`` section.
        model: its defense.
        index: (n,) positions in the test split.
        label: (n,) true classes.
        clean: (n, C, H, W) in [0, 1].
        adversarial: like clean, as the row's own attack left them; None where it had none.
        attack: what made them.
        records: their one-shot records.
    """

    name: str
    settings: dict[str, Any]
    model: PurifiedClassifier
    index: Tensor
    label: Tensor
    clean: Tensor
    adversarial: Tensor | None
    attack: str
    records: Sequence[Record]

    def attacked(self) -> Tensor:
        """The adversarial images.

        Raises:
            ConfigError: where there are none.
        """
        if self.adversarial is None:
            raise ConfigError(f"--row {self.name}: has no attack, and this figure shows adversarial images")
        return self.adversarial


class FinishedRun:
    """An evaluation's folder.

    Args:
        folder: the run's.
        places: ``key=value`` for what has moved since; see ``PATHS``.
        device: where networks run.

    Raises:
        ConfigError: for a folder that is no evaluation's, a key that is no place, or a device that is not there.
    """

    def __init__(self, folder: Path, places: Sequence[str] = (), device: str = "cpu") -> None:
        self.folder, self.device = folder, _device(device)
        raw = merge(read_settings(folder), {"output": str(folder)})
        for place in places:
            raw = _moved(raw, place)
        try:
            self.config = restore(raw)
        except ConfigError as error:
            raise ConfigError(f"{folder}: is no evaluation's folder: config.yaml: {error}") from None
        self.rows = self.config.rows

    @cached_property
    def data(self) -> ImageDataModule:
        """The run's images, opened when they are first wanted."""
        return ImageDataModule(**to_dict(self.config.data)).prepare()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers."""
        return list(self.data.class_names or map(str, range(self.data.num_classes)))

    def chosen(self, names: Sequence[str]) -> list[str]:
        """The named rows; all that purify and have records where none is named.

        Raises:
            ConfigError: for a row that the run does not have.
        """
        for name in names:
            if name not in self.rows:
                raise ConfigError(f"--row {name}: is no row of {self.folder}; it has {', '.join(self.rows)}")
        found = list(names) or [name for name in self.recorded if self.rows[name].purifier["name"] != "none"]
        if not found:
            raise ConfigError(f"{self.folder}: has no row that purifies")
        return found

    def compared(self, names: Sequence[str]) -> list[str]:
        """The named rows; all that have records where none is named.

        Raises:
            ConfigError: for a row that the run does not have.
        """
        return self.chosen(names) if names else self.recorded

    @property
    def recorded(self) -> list[str]:
        """Rows that have records: a table's others lacked something. All, where none has any."""
        return [name for name in self.rows if any((self.folder / name).glob("samples-*.jsonl"))] or list(self.rows)

    def state(self) -> dict[str, Any]:
        """What the run holds now, as far as a figure can depend on it: config, hashes of data and weights, records."""
        results = self.folder / RESULTS
        return {
            "content": read_mapping(self.folder / CONTENT, "run's"),
            "config": _digest(self.folder / CONFIG),
            "records": {name: _digest(*sorted((self.folder / name).glob("samples-*.jsonl"))) for name in self.rows},
            "results": _digest(results) if results.is_file() else None,
        }

    def heterogeneous(self, names: Sequence[str]) -> str:
        """The one named row, or the first, that has an attention mask.

        Raises:
            ConfigError: where there is none, or several are named.
        """
        if len(names) > 1:
            raise ConfigError(f"--row {names[1]}: this figure shows one row, {names[0]} is named already")
        for name in self.chosen(names):
            if self.rows[name].purifier["name"] == "heterogeneous":
                return name
        if names:
            kind = self.rows[names[0]].purifier["name"]
            raise ConfigError(f"--row {names[0]}: its purifier is {kind}, and this figure needs a heterogeneous one")
        raise ConfigError(f"{self.folder}: has no row with a heterogeneous purifier, which this figure needs")

    def build(self, names: Sequence[str]) -> list[Row]:
        """Networks, defenses and attacks of some rows, the same as in the run.

        Raises:
            ConfigError: where they cannot be built, or images or weights are others than the run's.
        """
        honesty = replace(self.config.honesty, images=0)
        settings = replace(self.config, honesty=honesty, rows={name: self.rows[name] for name in names})
        rows = build_rows(settings, self.data)
        now, then = content_of(rows, self.data), read_mapping(self.folder / CONTENT, "run's")
        then["rows"] = {name: then["rows"][name] for name in names if name in then["rows"]}
        changes = differences(then, now, ())
        if changes:
            raise ConfigError(f"{self.folder}: was made with other data or weights ({'; '.join(changes[:4])})")
        for row in rows:
            row.model.to(self.device)
        return rows

    def images(self, names: Sequence[str], count: int | None = None) -> list[Images]:
        """Finished images of some rows, the same ones of each, in the subset's order.

        Args:
            names: of the rows.
            count: how many at most; None for all.

        Raises:
            ConfigError: where no image is finished in all of them; see also ``build``.
        """
        if count is not None and count < 1:
            raise ConfigError(f"images: found {count}, accepted is 1 or more")
        rows = self.build(names)
        records = [
            {r.index: r for r in reversed(row.store.read()) if r.failure is None and r.protocol == "one-shot"}
            for row in rows
        ]
        index = [i for i in self.data.indices if all(i in found for found in records)][:count]
        if not index:
            raise ConfigError(f"{self.folder}: no image is finished in {', '.join(names)}")
        items = [item(self.data.test_source, i) for i in index]
        clean = torch.stack([one["image"] for one in items]).to(self.device)
        label = torch.tensor([one["label"] for one in items])
        result = []
        for row, found in zip(rows, records, strict=True):
            saved = [row.store.adversarial(found[i]) for i in index]
            adversarial = [torch.from_numpy(image) for image in saved if image is not None]
            result.append(
                Images(
                    row.name,
                    self.rows[row.name].purifier,
                    row.model,
                    torch.tensor(index, device=self.device),
                    label,
                    clean,
                    torch.stack(adversarial).to(self.device) if len(adversarial) == len(index) else None,
                    row.conditions.attack,
                    [found[i] for i in index],
                )
            )
        return result


@torch.no_grad()
def purifications(images: Images, x: Tensor, draws: int, purifier: Purifier | None = None, label: str = "") -> Tensor:
    """The first of the defender's purifications of images, chunked as in the evaluation.

    Args:
        images: whose defense it is, and whose keys.
        x: (n, C, H, W) in [0, 1], its clean or adversarial images.
        draws: how many of each; a purifier without randomness is run once.
        purifier: instead of the defense's.
        label: of the progress bar.

    Returns:
        (n, draws, C, H, W) in [0, 1].
    """
    model = images.model if purifier is None else images.model.behind(purifier)
    draws = draws if model.purifier.stochastic else 1
    keys = defense_keys(images, draws)
    chunks = tqdm(
        model.chunks(x, keys), label or images.name, -(-len(keys) // model.chunk_size), leave=False, unit="chunk"
    )
    purified = [model.purifier.purify(c.x, c.draws, *c.prepared)[: c.real] for c in chunks]
    return torch.cat(purified).unflatten(0, (len(x), draws))


def defense_keys(images: Images, draws: int) -> Draws:
    """Keys of the first ``draws`` of the defender's purifications of each image."""
    if draws < 1:
        raise ConfigError(f"draws: found {draws}, accepted is 1 or more")
    return defense_draws(images.model.seed, images.index, draws)


def _moved(raw: dict[str, Any], place: str) -> dict[str, Any]:
    """A saved config with a path given anew, also in rows' own sections, of the same file or one that is gone."""
    key, change = place.split("=", 1)[0], parse_overrides([place])
    if key not in PATHS:
        raise ConfigError(f"{key}: is the run's own; accepted are {', '.join(PATHS)}")
    whole, rows = _at(raw, key), dict(raw["rows"])
    for name, row in rows.items():
        own = _at(row or {}, key)
        if isinstance(own, str) and (own == whole or not resolve_path(own).exists()):
            rows[name] = merge(row, change)
    return {**(raw if whole is ABSENT else merge(raw, change)), "rows": rows}


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, or ``ABSENT``."""
    for part in key.split("."):
        settings = settings.get(part, ABSENT) if isinstance(settings, Mapping) else ABSENT
    return settings


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: cannot be used: {str(error).splitlines()[0]}") from None


def _digest(*files: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
