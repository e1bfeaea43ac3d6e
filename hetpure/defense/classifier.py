"""Algorithm 3: a classifier behind S purifications, as a LightningModule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from hetpure.defense.chunks import chunk_indices
from hetpure.models.classifiers import Classifier
from hetpure.noise import Draws, defense_draws
from hetpure.purification.base import Purifier

EnsembleMode = Literal["mean_logits", "mean_probs", "vote"]


@dataclass(frozen=True)
class Chunk:
    """Rows that go through the networks together; only the first ``real`` count, the rest pad.

    Attributes:
        image: (N,) which image each row is of.
        x: (N, C, H, W) the rows' images.
        draws: the rows' keys.
        prepared: the purifier's per-image work, by row.
        real: how many rows are no padding.
    """

    image: Tensor
    x: Tensor
    draws: Draws
    prepared: tuple[Tensor, ...]
    real: int


def ensemble_scores(logits: Tensor, mode: EnsembleMode) -> Tensor:
    """Class scores from S purifications.

    Args:
        logits: (B, S, K).
        mode: ``mean_logits`` (Algorithm 3), ``mean_probs``, or ``vote`` (released code: the share of purifications that
            predict each class).

    Returns:
        (B, K); the prediction is the largest, the first where votes tie.
    """
    if mode == "mean_logits":
        return logits.mean(dim=1)
    if mode == "mean_probs":
        return logits.softmax(dim=2).mean(dim=1)
    return functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype).mean(dim=1)


class PurifiedClassifier(lightning.LightningModule):
    """The defense process: mask, purify, classify, S times, and join.

    Args:
        classifier: the classifier that is defended.
        purifier: the purifier in front of it.
        num_classes: K.
        ensemble_size: S; a purifier that is not stochastic needs one run and gets one.
        ensemble_mode: see ``ensemble_scores``; by default as the purifier's preset has it.
        chunk_size: rows (images times draws) in one network call; see ``chunks``.
        seed: of the defender's draws.

    Raises:
        ValueError: for a size below 1 or an unknown mode.
    """

    def __init__(
        self,
        classifier: Classifier,
        purifier: Purifier,
        num_classes: int,
        ensemble_size: int = 20,
        ensemble_mode: EnsembleMode | None = None,
        chunk_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if ensemble_size < 1:
            raise ValueError(f"ensemble.size = {ensemble_size} must be at least 1")
        if chunk_size < 1:
            raise ValueError(f"chunk_size = {chunk_size} must be at least 1")
        ensemble_mode = ensemble_mode or cast(EnsembleMode, purifier.ensemble_mode)
        if ensemble_mode not in ("mean_logits", "mean_probs", "vote"):
            raise ValueError(f"ensemble.mode = {ensemble_mode!r} must be mean_logits, mean_probs or vote")
        self.classifier, self.purifier = classifier, purifier
        self.num_classes = num_classes
        self.ensemble_size = ensemble_size if purifier.stochastic else 1
        self.ensemble_mode: EnsembleMode = ensemble_mode
        self.chunk_size, self.seed = chunk_size, seed
        # Running figures of this process; the final table is computed from rows, so ranks never wait for each other.
        self.standard = MulticlassAccuracy(num_classes, average="micro", sync_on_compute=False)
        self.robust = MulticlassAccuracy(num_classes, average="micro", sync_on_compute=False)

    def behind(self, purifier: Purifier) -> "PurifiedClassifier":
        """The same classifier, ensemble, chunks and seed behind another purifier."""
        return PurifiedClassifier(
            self.classifier,
            purifier,
            self.num_classes,
            self.ensemble_size,
            self.ensemble_mode,
            self.chunk_size,
            self.seed,
        )

    def forward(self, x: Tensor, sample: Tensor | None = None) -> Tensor:
        """Class scores (B, K) of images x (B, C, H, W) in [0, 1]: Algorithm 3.

        Args:
            x: the images.
            sample: (B,) int64 index of each image in its dataset, which keys its noise; 0..B-1 by default.
        """
        if sample is None:
            sample = torch.arange(len(x), device=x.device)
        logits = self.purified_logits(x, defense_draws(self.seed, sample, self.ensemble_size))
        return ensemble_scores(logits.unflatten(0, (len(x), self.ensemble_size)), self.ensemble_mode)

    def purified_logits(self, x: Tensor, draws: Draws) -> Tensor:
        """Logits (B * S, K) of S purifications of each of B images; draws has B * S rows, sample by sample."""
        purified = ((self.purifier.purify(c.x, c.draws, *c.prepared), c.real) for c in self.chunks(x, draws))
        return torch.cat([self.classifier(images)[:real] for images, real in purified])

    def purified_images(self, x: Tensor, draws: Draws) -> Tensor:
        """The purifications (B * S, C, H, W) themselves; see ``purified_logits``."""
        return torch.cat([self.purifier.purify(c.x, c.draws, *c.prepared)[: c.real] for c in self.chunks(x, draws)])

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """The purifier's per-image work on x (B, C, H, W), in chunks, without gradients."""
        with torch.no_grad():
            chunks = chunk_indices(len(x), self.chunk_size, x.device)
            parts = [[p[:real] for p in self.purifier.prepare(x[rows])] for rows, real in chunks]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))

    def chunks(self, x: Tensor, draws: Draws) -> Iterator[Chunk]:
        """The rows of draws (a multiple of B) over images x (B, C, H, W), with what is prepared, in equal chunks."""
        prepared = self.prepare(x)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(len(draws) // len(x))
        for rows, real in chunk_indices(len(draws), self.chunk_size, x.device):
            image = owner[rows]
            yield Chunk(image, x[image], draws.rows(rows), tuple(p[image] for p in prepared), real)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Scores of a batch's clean images and, where an attack callback left them, of its adversarial ones.

        Args:
            batch: ``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` (B,), perhaps ``adversarial`` like image.
            batch_idx: Lightning's.

        Returns:
            ``clean`` and, perhaps, ``adversarial`` scores (B, K).
        """
        scores = {"clean": self(batch["image"], batch["index"])}
        self.standard.update(scores["clean"], batch["label"])
        if "adversarial" in batch:
            scores["adversarial"] = self(batch["adversarial"], batch["index"])
            self.robust.update(scores["adversarial"], batch["label"])
        return scores
