"""A run folder opened again, for figures: its rows, networks and finished images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from hetpure.config import to_dict
from hetpure.config.named_code import allowed_config
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError, require
from hetpure.evaluation.build import Row, build_rows, content_of
from hetpure.evaluation.config import restore
from hetpure.models.precision import allow_tf32
from hetpure.noise import Draws, defense_draws
from hetpure.purification.base import Purifier
from hetpure.runs.claim import differences, hashed_before
from hetpure.runs.files import CONTENT
from hetpure.runs.read import read_run, row_settings


@dataclass(frozen=True)
class RowImages:
    """Finished images of one row, clean ones and those that its own attack left."""

    name: str
    model: PurifiedClassifier
    index: Tensor  # (n,) positions in the test split
    label: Tensor  # (n,) true classes
    clean: Tensor  # (n, C, H, W) in [0, 1]
    adversarial: Tensor | None  # like clean; None where the row had no attack
    attack: str  # in words

    def sides(self) -> dict[str, Tensor]:
        """The images as ``natural`` and ``adversarial``; ConfigError where the row has no attack."""
        if self.adversarial is None:
            raise ConfigError("--row", "which has no attack, and this figure shows adversarial images", found=self.name)
        return {"natural": self.clean, "adversarial": self.adversarial}

    def draws(self, count: int) -> Draws:
        """Keys of the first ``count`` of the defender's purifications of each image."""
        require(count >= 1, "draws", count, "1 or more")
        return defense_draws(self.model.seed, self.index, count)

    @torch.no_grad()
    def purifications(self, x: Tensor, count: int, purifier: Purifier | None = None) -> Tensor:
        """The first of the defender's purifications of the clean or adversarial images, in chunks as in the evaluation.

        Of x (n, C, H, W) in [0, 1] it makes (n, count, C, H, W); without randomness count is 1. Another purifier may
        take the place of the row's own.
        """
        model = self.model if purifier is None else self.model.behind(purifier)
        draws = self.draws(count if model.purifier.stochastic else 1)
        chunks = tqdm(model.chunks(x, draws), self.name, -(-len(draws) // model.chunk_size), leave=False, unit="chunk")
        purified = [model.purifier.purify(c.x, c.draws, *c.prepared)[: c.real] for c in chunks]
        return torch.cat(purified).unflatten(0, (len(x), -1))


class FinishedRun:
    """An evaluation's folder, opened again.

    ``moved`` says ``key=value`` for data and weights that have moved, and names the code that the folder names.
    ConfigError for a folder that is no evaluation's, code that is not named, or a device that is not available.
    """

    def __init__(self, folder: Path, moved: Sequence[str] = (), device: str = "cpu") -> None:
        try:
            self.device = torch.zeros(1, device=device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError("--device", f"which cannot be used: {reason}", found=device) from None
        self.saved = read_run(folder)
        raw: dict[str, Any] = {**self.saved.config, "output": str(folder)}
        raw, _ = allowed_config(raw, moved)
        try:
            self.config = restore(raw)
        except ConfigError as error:
            raise ConfigError(str(folder), f"is not an evaluation's folder: config.yaml: {error}") from None
        self.rows = row_settings(self.config.to_dict())  # resolved, by name

    @cached_property
    def data(self) -> ImageDataModule:
        """The run's images."""
        return ImageDataModule(**to_dict(self.config.data)).prepare()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers."""
        return list(self.data.class_names or map(str, range(self.data.num_classes)))

    def state(self) -> str:
        """A hash of all that a figure can depend on: config, hashes of data and weights, records, results."""
        methods = [(method.name, method.records, method.rows) for method in self.saved.methods]
        return hashlib.blake2b(repr((self.saved.texts, methods)).encode(), digest_size=8).hexdigest()

    def select(
        self, names: Sequence[str], suits: Callable[[Any], bool] = lambda _: True, needs: str = "a row of the run"
    ) -> list[str]:
        """The named rows; where none is named, all that have records and suit a figure by their ``purifier`` section.

        ConfigError for a row that the run does not have or that does not suit, or where none suits.
        """
        suitable = [name for name, row in self.rows.items() if suits(row["purifier"])]
        for name in names:
            require(name in suitable, "--row", name, f"{needs}: {', '.join(suitable) or 'there is none'}")
        recorded = [method.name for method in self.saved.methods if method.records] or suitable
        chosen = list(names) or [name for name in recorded if name in suitable]
        if not chosen:
            raise ConfigError(str(self.saved.path), f"this figure needs {needs}, and there is none")
        return chosen

    def heterogeneous(self, names: Sequence[str]) -> str:
        """The named row, or the first, with a heterogeneous purifier; ConfigError for none, or several names."""
        require(len(names) <= 1, "--row", list(names), "one row, which is all that this figure shows")
        needs = "a row with a heterogeneous purifier"
        return self.select(names, lambda purifier: purifier["name"] == "heterogeneous", needs)[0]

    def build(self, names: Sequence[str]) -> list[Row]:
        """Some rows, in the run's precision and threads; ConfigError where images or weights differ from the run's."""
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        allow_tf32(self.config.precision)
        honesty = replace(self.config.honesty, images=0)
        rows = {name: self.config.rows[name] for name in names}
        rows = build_rows(replace(self.config, honesty=honesty, rows=rows), self.data)
        content = yaml.safe_load(self.saved.texts.get(CONTENT, "{}"))
        content["rows"] = {name: content["rows"][name] for name in names if name in content.get("rows", {})}
        if changes := differences(content, hashed_before(content, content_of(rows, self.data)), ()):
            raise ConfigError(str(self.saved.path), f"was made with other data or weights ({'; '.join(changes[:4])})")
        for row in rows:
            row.model.to(self.device)
        return rows

    def images(self, names: Sequence[str], count: int | None = None) -> list[RowImages]:
        """Finished images of some rows, the same ones of each, in the subset's order, ``count`` at most.

        ConfigError where no image is finished in all of them; see also ``build``.
        """
        require(count is None or count >= 1, "images", count, "1 or more")
        rows = self.build(names)
        stored = [[r for r in row.store.outcomes() if r.failure is None and r.protocol == "one-shot"] for row in rows]
        records = [{record.index: record for record in of_row} for of_row in stored]
        index = [i for i in self.data.indices if all(i in finished for finished in records)][:count]
        if not index:
            raise ConfigError(str(self.saved.path), f"has no image that is finished in {', '.join(names)}")
        items = [item(self.data.test_source, i) for i in index]
        clean = torch.stack([one["image"] for one in items]).to(self.device)
        label, sample = torch.tensor([one["label"] for one in items]), torch.tensor(index, device=self.device)
        result = []
        for row, finished in zip(rows, records, strict=True):
            saved = [row.store.adversarial(finished[i]) for i in index]
            images = [torch.from_numpy(image) for image in saved if image is not None]
            adversarial = torch.stack(images).to(self.device) if len(images) == len(index) else None
            result.append(RowImages(row.name, row.model, sample, label, clean, adversarial, row.conditions.attack))
        return result


def attacks_of(compared: Sequence[RowImages]) -> str:
    """The rows' attacks in words, each once."""
    return "; ".join(dict.fromkeys(row.attack for row in compared))
