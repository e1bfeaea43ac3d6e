"""How many chunks an evaluation computes: its own code runs for one image, with networks that only count."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.defense.protocols import draws_needed
from hetpure.evaluation.build import Row
from hetpure.noise import Draws, defense_draws

Part = Literal["prepare", "purify", "classify"]


@dataclass(frozen=True)
class Piece:
    """One chunk's way through one part of a process.

    Attributes:
        process: the defense or the attack process.
        part: the purifier's work per image, its work per draw, or the classifier.
        gradient: whether the gradient of the input is taken.
        rows: rows of the chunk, padding included.
    """

    process: PurifiedClassifier
    part: Part
    gradient: bool
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
    batches = [(batch_size, images // batch_size), (images % batch_size, 1)]
    totals = Counter[Piece](), Counter[Piece]()
    for total, broken in zip(totals, (False, True), strict=True):
        for process, calls in _calls_for_one_image(row, image_shape, broken):
            for (part, gradient, rows, chunked), count in calls.items():
                for batch, times in batches:
                    chunks = math.ceil(batch * rows / process.chunk_size) if chunked else batch
                    piece = Piece(process, part, gradient, process.chunk_size if chunked else rows)
                    total[piece] += times * count * chunks
    return +totals[0], +totals[1]


Calls = Counter[tuple[Part, bool, int, bool]]
"""How often a part is called: the part, whether with gradients, its rows, whether those go out in padded chunks."""


def _calls_for_one_image(
    row: Row, image_shape: tuple[int, int, int], broken: bool
) -> Iterator[tuple[PurifiedClassifier, Calls]]:
    """The calls of each process; all predictions of the image are wrong if ``broken``, else right."""
    x, zero = torch.full((1, *image_shape), 0.5), torch.zeros(1, dtype=torch.long)
    defense = _CountingProcess(row.model, broken)
    with torch.no_grad():
        for _ in range(1 if row.attack is None else 2):
            defense.purified_logits(x, defense_draws(row.model.seed, zero, draws_needed(row.protocols)))
    yield row.model, defense.counter.calls
    if row.attack is not None and row.gradient is not None:
        (process,) = row.processes
        attack = _CountingProcess(process, broken)
        with replaced((row.gradient, "process", attack)), torch.random.fork_rng(devices=[]):
            row.attack(row.gradient, x, zero, zero)
        yield process, attack.counter.calls


class _Counter(nn.Module):
    """In place of the purifier and of the classifier of a process: counts their calls and computes nothing."""

    def __init__(self, process: PurifiedClassifier, broken: bool) -> None:
        super().__init__()
        self.stochastic, self.differentiable = process.purifier.stochastic, process.purifier.differentiable
        self.margins = torch.zeros(process.num_classes)
        self.margins[0] = -10.0 if broken else 10.0
        self.calls, self.chunked = Calls(), False

    def count(self, part: Part, x: Tensor) -> None:
        self.calls[part, torch.is_grad_enabled() and x.requires_grad, len(x), self.chunked] += 1

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        self.count("prepare", x)
        return ()

    def purify(self, x: Tensor, draws: Draws) -> Tensor:
        self.count("purify", x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) with a clear winner and a gradient that is small but not zero."""
        self.count("classify", x)
        return self.margins + 1e-3 * x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(len(self.margins))


class _CountingProcess(PurifiedClassifier):
    """A process whose rows go out as one chunk without padding, so that its calls tell how many rows an image has."""

    def __init__(self, process: PurifiedClassifier, broken: bool) -> None:
        counter: Any = _Counter(process, broken)
        size, mode = process.ensemble_size, process.ensemble_mode
        super().__init__(counter, counter, process.num_classes, size, mode, process.chunk_size, process.seed)
        self.counter: _Counter = counter

    def chunks(self, x: Tensor, draws: Draws) -> Iterator[Chunk]:
        self.counter.chunked = True
        with torch.no_grad():
            self.counter.prepare(x)
        image = torch.arange(len(x)).repeat_interleave(len(draws) // len(x))
        yield Chunk(image, x[image], draws, (), len(draws))
        self.counter.chunked = False


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
