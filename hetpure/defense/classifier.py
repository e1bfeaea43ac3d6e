"""Algorithm 3: a classifier behind S purifications, as the LightningModule that an evaluation tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast, get_args

import lightning
import torch
from torch import Tensor

from hetpure.defense.batch import ATTACKED, AttackedImages, BatchScores
from hetpure.defense.finite import finite_rows, first_not_finite
from hetpure.defense.memory import in_smaller_chunks
from hetpure.defense.protocols import EnsembleMode, build_protocols, draws_needed, ensemble_scores
from hetpure.errors import require
from hetpure.models.classifiers import Classifier
from hetpure.noise import Draws, defense_draws
from hetpure.purification.base import Purifier
from hetpure.runs.records import Side

LARGEST_CHUNK = 64
"""Rows in one network call at most, where no ``chunk_size`` is given."""


@dataclass(frozen=True)
class Chunk:
    """Rows that go through the networks together; only the first ``real`` count, the rest pad."""

    image: Tensor  # (N,) which image each row is of
    x: Tensor  # (N, C, H, W) the rows' images
    draws: Draws  # the rows' keys
    prepared: tuple[Tensor, ...]  # the purifier's per-image work, by row
    real: int


def chunk_indices(count: int, size: int, device: torch.device | None = None) -> Iterator[tuple[Tensor, int]]:
    """Row numbers of each chunk, always ``size`` of them, and how many are real: the rest repeat its first row.

    Kernels round differently at different batch shapes, and an attack's sign step turns a rounding difference into a
    whole pixel step. With chunks of one shape, a row's result does not depend on how many other rows there are.
    """
    for start in range(0, count, size):
        real = min(size, count - start)
        index = torch.full((size,), start, dtype=torch.long, device=device)
        index[:real] = torch.arange(start, start + real, device=device)
        yield index, real


class PurifiedClassifier(lightning.LightningModule):
    """The defense process: mask, purify, classify, S times, and join.

    Args:
        classifier: the classifier that is defended.
        purifier: the purifier in front of it.
        num_classes: K.
        ensemble_size: S; a purifier that is not stochastic needs one run and gets one.
        ensemble_mode: see ``ensemble_scores``; by default as the purifier's preset has it.
        chunk_size: rows (images times draws) in one network call, always that many; see ``chunk_indices``. None: as
            many as there are, 64 at most, without padding. That is faster where rows are few, but results are then
            bit-identical only for equal batches. An evaluation always has a fixed size.
        seed: of the defender's draws.
        resubmissions: N of the best-of-N protocol; see ``build_protocols``.
        votes: V of the majority-vote protocol, likewise.

    Attributes:
        chunk_size: rows in one network call; at most, where ``pads`` is False.
        pads: whether every network call has ``chunk_size`` rows.
        protocols: what ``test_step`` judges by, one-shot first.
        notify: called with a line of text when a batch starts again with smaller chunks.

    Raises:
        ConfigError: for a size below 1 or an unknown mode.
    """

    def __init__(
        self,
        classifier: Classifier,
        purifier: Purifier,
        num_classes: int,
        ensemble_size: int = 20,
        ensemble_mode: EnsembleMode | None = None,
        chunk_size: int | None = None,
        seed: int = 0,
        resubmissions: int = 1,
        votes: int = 0,
    ) -> None:
        super().__init__()
        mode = cast(EnsembleMode, ensemble_mode or purifier.ensemble_mode)
        require(ensemble_size >= 1, "ensemble_size", ensemble_size, "1 or more")
        require(chunk_size is None or chunk_size >= 1, "chunk_size", chunk_size, "1 or more")
        require(mode in get_args(EnsembleMode), "ensemble_mode", mode, ", ".join(get_args(EnsembleMode)))
        self.classifier, self.purifier = classifier, purifier
        self.num_classes = num_classes
        self.ensemble_size = ensemble_size if self.stochastic else 1
        self.ensemble_mode: EnsembleMode = mode
        self.pads, self.chunk_size = chunk_size is not None, chunk_size or LARGEST_CHUNK
        self.seed = seed
        self.protocols = build_protocols(self.ensemble_size, mode, resubmissions, votes)
        self.notify: Callable[[str], None] = print

    @property
    def stochastic(self) -> bool:
        """Whether two draws differ."""
        return self.purifier.stochastic or self.classifier.stochastic

    @property
    def network_calls(self) -> int:
        """Of denoisers, for the logits of one draw."""
        return self.purifier.network_calls + self.classifier.network_calls

    def behind(self, purifier: Purifier, classifier: Classifier | None = None) -> "PurifiedClassifier":
        """The same ensemble, chunks and seed behind another purifier; by default with the same classifier."""
        own = (self.num_classes, self.ensemble_size, self.ensemble_mode, self.chunk_size, self.seed)
        copy = PurifiedClassifier(classifier or self.classifier, purifier, *own)
        copy.pads = self.pads
        return copy

    def forward(self, x: Tensor, sample: Tensor | None = None) -> Tensor:
        """Class scores (B, K) of images x (B, C, H, W) in [0, 1]: Algorithm 3.

        ``sample``, (B,) int64, is each image's index in its dataset, which keys its noise; 0..B-1 by default. Equal
        images and samples give equal scores: two calls draw the same noise. So code that calls a model repeatedly to
        average over its randomness (EOT) averages one draw here; hand it ``hetpure.FreshDraws(defense)`` instead.
        """
        if sample is None:
            sample = torch.arange(len(x), device=x.device)
        logits = self.purified_logits(x, defense_draws(self.seed, sample, self.ensemble_size))
        return ensemble_scores(logits.unflatten(0, (len(x), self.ensemble_size)), self.ensemble_mode)

    def purified_logits(self, x: Tensor, draws: Draws) -> Tensor:
        """Logits (B * S, K) of S purifications of each of B images; draws has B * S rows, sample by sample."""
        purified = ((self.purifier.purify(c.x, c.draws, *c.prepared), c) for c in self.chunks(x, draws))
        return torch.cat([self.classify(images, c.draws)[: c.real] for images, c in purified])

    def classify(self, purified: Tensor, draws: Draws) -> Tensor:
        """Logits (N, K) of purified images (N, C, H, W), whose draws a stochastic classifier goes on with."""
        return self.classifier(purified, draws) if self.classifier.stochastic else self.classifier(purified)

    def purified_images(self, x: Tensor, draws: Draws) -> Tensor:
        """The purifications (B * S, C, H, W) themselves; see ``purified_logits``."""
        return torch.cat([self.purifier.purify(c.x, c.draws, *c.prepared)[: c.real] for c in self.chunks(x, draws)])

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """The purifier's per-image work on x (B, C, H, W), in chunks, without gradients."""
        with torch.no_grad():
            chunks = self._chunk_indices(len(x), x.device)
            parts = [[p[:real] for p in self.purifier.prepare(x[rows])] for rows, real in chunks]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))

    def chunks(self, x: Tensor, draws: Draws) -> Iterator[Chunk]:
        """The rows of draws (a multiple of B) over images x (B, C, H, W), with what is prepared, in equal chunks."""
        prepared = self.prepare(x)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(len(draws) // len(x))
        for rows, real in self._chunk_indices(len(draws), x.device):
            image = owner[rows]
            yield Chunk(image, x[image], draws.rows(rows), tuple(p[image] for p in prepared), real)

    def _chunk_indices(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
        if self.pads:
            return chunk_indices(count, self.chunk_size, device)
        return ((rows, len(rows)) for rows in torch.arange(count, device=device).split(self.chunk_size))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> BatchScores:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scores of a batch's clean images and, where an attack's callback left any, of its adversarial ones.

        The batch has ``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` (B,); after an attack ``ATTACKED``, too.
        Raises RunError where the memory does not hold one row of a network call.
        """
        scores, checkpoints, failures = in_smaller_chunks(lambda: self._scores(batch), [self], self.notify)
        return BatchScores(scores, failures, self.chunk_size, checkpoints)

    def _scores(
        self, batch: dict[str, Any]
    ) -> tuple[dict[Side, dict[str, Tensor]], dict[int, dict[str, Tensor]], dict[int, str]]:
        attacked: AttackedImages | None = batch.get(ATTACKED)
        failures = dict(attacked.failures) if attacked is not None else {}
        count = draws_needed(self.protocols)
        draws = defense_draws(self.seed, batch["index"], count)

        images = {"clean image": batch["image"]}
        if attacked is not None:
            images["adversarial image"] = attacked.images
            images |= {f"image after {n} iterations": x for n, x in attacked.checkpoints.items()}

        def judged(name: str, logits: Tensor) -> dict[str, Tensor]:
            for i, finite in enumerate(finite_rows(logits).tolist()):
                index = int(batch["index"][i])
                if not finite and index not in failures:
                    own_draws = draws.rows(slice(i * count, (i + 1) * count))
                    where = first_not_finite(self, images[name][i : i + 1], own_draws) or "logits"
                    failures[index] = f"not finite in the defense, {name}: {where}"
            return {protocol.name: protocol.scores(logits) for protocol in self.protocols}

        if self.pads:  # chunks may be shared: a row's result does not depend on the others
            rows = torch.arange(len(draws), device=draws.sample.device).repeat(len(images))
            logits = self.purified_logits(torch.cat([*images.values()]), draws.rows(rows)).chunk(len(images))
        else:
            logits = [self.purified_logits(x, draws) for x in images.values()]
        of_images = (part.unflatten(0, (len(batch["index"]), count)) for part in logits)
        clean, *others = (judged(*each) for each in zip(images, of_images, strict=True))
        scores: dict[Side, dict[str, Tensor]] = {"clean": clean}
        if attacked is None:
            return scores, {}, failures
        return {**scores, "adversarial": others[0]}, dict(zip(attacked.checkpoints, others[1:], strict=True)), failures
