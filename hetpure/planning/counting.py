"""How many chunks an evaluation computes: its own code runs for one image, with networks that only count."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.defense.protocols import draws_needed
from hetpure.evaluation.build import Row
from hetpure.noise import Draws, defense_draws

Work = Literal["gradient", "classifier gradient", "prediction", "prepare"]
"""Purification and classification with a gradient through both, through the classifier alone, or without gradients; and
the purifier's work per image. What needs most memory comes first."""

WORK = get_args(Work)


@dataclass(frozen=True)
class Piece:
    """One chunk's way through a defense or attack process, with its rows, padding included."""

    process: PurifiedClassifier
    work: Work
    rows: int


def count_pieces(
    row: Row, image_shape: tuple[int, int, int], images: int, batch_size: int
) -> tuple[Counter[Piece], Counter[Piece]]:
    """How often each piece of a row is computed, by its attack and by the predictions of all its protocols.

    Args:
        row: the row, built.
        image_shape: (C, H, W).
        images: number of images.
        batch_size: images in a full batch.

    Returns:
        The counts at most, and the counts if every sample broke as soon as the attack looks: fewer, where an attack
        leaves broken samples alone.
    """
    most, least = Counter[Piece](), Counter[Piece]()
    for pieces, broken in ((most, False), (least, True)):
        for process in _counted(row, image_shape, broken):
            for (work, rows, chunked), calls in process.counter.calls.items():
                for batch, times in ((batch_size, images // batch_size), (images % batch_size, 1)):
                    chunks = math.ceil(batch * rows / process.chunk_size) if chunked else batch
                    piece = Piece(process.counted, work, process.chunk_size if chunked else rows)
                    pieces[piece] += times * calls * chunks
    return +most, +least


def _counted(row: Row, image_shape: tuple[int, int, int], broken: bool) -> "Iterator[_CountingProcess]":
    """Stand-ins for a row's processes after its work on one image, whose predictions are all wrong or all right."""
    x, zero = torch.full((1, *image_shape), 0.5), torch.zeros(1, dtype=torch.long)
    defense = _CountingProcess(row.model, broken)
    with torch.no_grad():
        for _ in range(1 if row.attack is None else 2):
            defense.purified_logits(x, defense_draws(row.model.seed, zero, draws_needed(row.protocols)))
    yield defense
    if row.attack is not None and row.gradient is not None:
        attack = _CountingProcess(row.processes[0], broken)
        with replaced((row.gradient, "process", attack)), torch.random.fork_rng(devices=[]):
            row.attack(row.gradient, x, zero, zero)
        yield attack


class _CountingProcess(PurifiedClassifier):
    """Stands for a process. Rows go out as one chunk without padding: its calls tell how many rows an image has."""

    def __init__(self, process: PurifiedClassifier, broken: bool) -> None:
        counter: Any = _Counter(process, broken)
        size, mode = process.ensemble_size, process.ensemble_mode
        super().__init__(counter, counter, process.num_classes, size, mode, process.chunk_size, process.seed)
        self.counter: _Counter = counter
        self.counted = process

    def chunks(self, x: Tensor, draws: Draws) -> Iterator[Chunk]:
        self.counter.chunked = True
        self.counter.prepare(x)
        image = torch.arange(len(x)).repeat_interleave(len(draws) // len(x))
        yield Chunk(image, x[image], draws, (), len(draws))
        self.counter.chunked = False


class _Counter(nn.Module):
    """Counts calls in place of a purifier and a classifier: by work, rows, and whether those go out in chunks."""

    def __init__(self, process: PurifiedClassifier, broken: bool) -> None:
        super().__init__()
        self.stochastic = process.purifier.stochastic
        self.margins = torch.zeros(process.num_classes)
        self.margins[0] = -10.0 if broken else 10.0
        self.calls, self.chunked = Counter[tuple[Work, int, bool]](), False

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls["prepare", len(x), self.chunked] += 1
        return ()

    def purify(self, x: Tensor, draws: Draws) -> Tensor:
        self.differentiated = torch.is_grad_enabled() and x.requires_grad
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) with a clear winner and a gradient that is small but not zero."""
        through_classifier = "classifier gradient" if torch.is_grad_enabled() and x.requires_grad else "prediction"
        self.calls["gradient" if self.differentiated else through_classifier, len(x), self.chunked] += 1
        return self.margins + 1e-3 * x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(len(self.margins))


@contextmanager
def replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """Within the context, objects have other attributes, or modules other children: (object, name, replacement)."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in attributes]
    try:
        for owner, name, replacement in attributes:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
