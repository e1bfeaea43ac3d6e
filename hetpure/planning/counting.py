"""How many chunks an evaluation computes: the attack runs on one image, with stand-ins for networks that only count."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args
from unittest.mock import patch

import torch
from torch import Tensor, nn

from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.defense.protocols import draws_needed
from hetpure.evaluation.build import Row
from hetpure.noise import Draws
from hetpure.purification.trajectory import Trail

Work = Literal["gradient", "purifier gradient", "classifier gradient", "prediction", "prepare"]
"""Purification and classification with a gradient through both, through the purifier (without classification), through
the classifier alone, or without gradients; and the purifier's work per image. What needs most memory comes first."""

WORK = get_args(Work)

Calls = Counter[tuple[Work, int, bool]]
"""Requests of one image by work, rows, and whether those go out in chunks."""


@dataclass(frozen=True)
class Piece:
    """One chunk's way through a defense or attack process, with its rows, padding included."""

    process: PurifiedClassifier
    work: Work
    rows: int


class PieceCounts(NamedTuple):
    """How often the pieces of a row are computed.

    Attributes:
        most: at most.
        least: if every sample broke as soon as the attack looks: fewer, where an attack leaves broken samples alone,
            and where adversarial images within a certified radius are checked.
        real: rows of ``most`` that are no padding.
        full_batch: images in the smallest batch that pads no chunk of gradients or predictions.
    """

    most: Counter[Piece]
    least: Counter[Piece]
    real: Counter[Piece]
    full_batch: int


def count_pieces(row: Row, image_shape: tuple[int, int, int], images: int, batch_size: int) -> PieceCounts:
    """How often each piece of a row is computed for a number of images, by its attack and by its predictions."""
    sides = 1 if row.attack is None else 2 + len(row.checkpoints)
    defense: Calls = Counter(
        {("prepare", sides, True): 1, ("prediction", sides * draws_needed(row.protocols), True): 1}
    )
    most, least, real, full_batch = Counter[Piece](), Counter[Piece](), Counter[Piece](), 1
    for process in (row.model, *row.processes):
        if process is row.model:
            at_most = at_least = defense
        else:
            at_most = _attack_calls(row, image_shape, "stands")
            if row.attack is not None and row.attack.skip_broken:  # which tries out only what is nearly broken
                at_most |= _attack_calls(row, image_shape, "wavers")
            at_least = _attack_calls(row, image_shape, "falls")
        for pieces, requests in ((most, at_most), (least, at_least)):
            for (work, rows, chunked), calls in requests.items():
                for batch, times in ((batch_size, images // batch_size), (images % batch_size, 1)):
                    chunks = math.ceil(batch * rows / process.chunk_size) if chunked else batch
                    pieces[Piece(process, work, process.chunk_size if chunked else rows)] += times * calls * chunks
        for (work, rows, chunked), calls in at_most.items():
            real[Piece(process, work, process.chunk_size if chunked else rows)] += images * calls * rows
            if chunked and work != "prepare":
                full_batch = math.lcm(full_batch, process.chunk_size // math.gcd(process.chunk_size, rows))
    if (certify := row.certify) is not None:  # image by image
        size, checked = row.model.chunk_size, int(row.attack is not None)
        prepare, prediction = Piece(row.model, "prepare", size), Piece(row.model, "prediction", size)
        for pieces, attacked in ((most, checked), (least, 0)):
            pieces[prepare] += images * (1 + attacked)
            chunks = math.ceil((certify.n0 + certify.n) / size) + attacked * math.ceil(certify.n / size)
            pieces[prediction] += images * chunks
        real[prepare] += images * (1 + checked)
        real[prediction] += images * (certify.n0 + certify.n + checked * certify.n)
    return PieceCounts(+most, +least, +real, full_batch)


def _attack_calls(row: Row, image_shape: tuple[int, int, int], image: Literal["stands", "wavers", "falls"]) -> Calls:
    """What a row's attack asks for on one image, whose predictions are all right, wrong until tried twice, or wrong."""
    assert row.attack is not None and row.gradient is not None
    if not row.attack.uses_defense:
        return Calls()
    x, zero, counter = torch.full((1, *image_shape), 0.5), torch.zeros(1, dtype=torch.long), _Counter()
    process = row.gradient.process
    counter.stochastic, counter.margins = process.stochastic, torch.zeros(process.num_classes)
    counter.margins[0], counter.right_from = 10.0 if image == "stands" else -10.0, math.inf
    if image == "wavers":
        counter.right_from = row.settings["attack"]["evaluations"]
    stand_in: Any = process.behind(cast(Any, counter))
    stand_in.classifier, stand_in.chunks = counter, counter.chunks
    with patch.object(row.gradient, "process", stand_in), torch.random.fork_rng(devices=[]):
        row.attack.rehearsal()(row.gradient, x, zero, zero)
    return counter.calls


class _Counter(nn.Module):
    """Stands for an attack process's purifier and classifier, and counts the calls."""

    stochastic: bool
    margins: Tensor
    right_from: float  # number of the draw, when images are tried out

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.chunked, self.sign = Calls(), False, 1.0

    def chunks(self, x: Tensor, draws: Draws) -> Iterator[Chunk]:
        """All rows as one chunk without padding: a call tells how many rows an image has."""
        self.chunked = True
        self.prepare(x)
        tried = draws.process == "selection"
        self.sign = -1.0 if tried and int(draws.draw.min()) >= self.right_from else 1.0
        image = torch.arange(len(x)).repeat_interleave(len(draws) // len(x))
        yield Chunk(image, x[image], draws, (), len(draws))
        self.chunked, self.sign = False, 1.0

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls["prepare", len(x), self.chunked] += 1
        return ()

    def purify(self, x: Tensor, draws: Draws) -> Tensor:
        self.differentiated = torch.is_grad_enabled() and x.requires_grad
        if self.differentiated:
            self.calls["purifier gradient", len(x), self.chunked] += 1
        Trail(x, x, 0.5).reached(0.5, x)  # for attacks that look at a purification's states
        return x

    def forward(self, x: Tensor, *_: Draws) -> Tensor:
        """Logits (N, K) with a clear winner and a gradient that is small but not zero."""
        through_classifier = "classifier gradient" if torch.is_grad_enabled() and x.requires_grad else "prediction"
        self.calls["gradient" if self.differentiated else through_classifier, len(x), self.chunked] += 1
        if self.differentiated:  # what was taken for the purifier alone
            self.calls["purifier gradient", len(x), self.chunked] -= 1
        return self.sign * self.margins + 1e-3 * x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(
            len(self.margins)
        )
