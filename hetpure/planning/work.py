"""How much of which work an evaluation is, to the chunk: the real code runs, with nothing behind it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetpure.attacks.gradients import GradientSource
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.protocols import draws_needed
from hetpure.evaluation.build import Row
from hetpure.noise import defense_draws
from hetpure.planning.rehearsal import Request, rehearse

Part = Literal["prepare", "purify", "classify"]


@dataclass(frozen=True)
class Piece:
    """One chunk's way through a part of a process.

    Attributes:
        part: the purifier's work per image, its work per draw, or the classifier.
        gradient: whether the gradient of its input is taken.
        rows: of the chunk, padding included.
    """

    part: Part
    gradient: bool
    rows: int


Pieces = Counter[Piece]


@dataclass(frozen=True)
class Work:
    """What a row takes.

    Attributes:
        attack: pieces of the attack process, at most.
        least: the same, if every sample broke at once; equal to ``attack`` for an attack that never stops early.
        defense: pieces of the defense process.
    """

    attack: Pieces
    least: Pieces
    defense: Pieces


def work_of(row: Row, image_shape: tuple[int, int, int], shares: list[int], batch: int) -> Work:
    """The pieces of a row, of the attack and of both predictions, all protocols.

    Args:
        row: the row, built.
        image_shape: (C, H, W).
        shares: images of each process.
        batch: images in a loader batch.
    """
    sizes: Counter[int] = Counter()
    for share in shares:
        sizes[batch] += share // batch
        sizes[share % batch] += 1
    sizes = Counter({size: count for size, count in sizes.items() if size and count})
    return Work(
        _attack(row, image_shape, sizes, falls=False),
        _attack(row, image_shape, sizes, falls=True),
        _times(sizes, lambda size: _scaled(defense_pieces(row, size), 1 if row.attack is None else 2)),
    )


def defense_pieces(row: Row, images: int) -> Pieces:
    """One side's prediction of a batch: the purifications that all protocols look at."""
    model, count = row.model, draws_needed(row.protocols)

    def predict() -> None:
        with torch.no_grad():
            model.purified_logits(_blank(images), defense_draws(model.seed, torch.arange(images), count))

    return _pieces(model, predict)


def request_pieces(source: GradientSource, process: PurifiedClassifier, request: Request, images: int) -> Pieces:
    """What a gradient source does when it is asked something about a batch of images."""
    x, sample = _blank(images), torch.arange(images)
    label = torch.zeros(images, dtype=torch.long)

    def ask() -> None:
        if request.kind == "gradient":
            source(x, label, sample, 0)
        elif request.kind == "evaluate":
            source.evaluate(x, label, sample, request.count)
        elif request.kind == "scores":
            source.scores(x, sample, request.count)
        else:
            with torch.set_grad_enabled(request.gradient):
                rows = _blank(request.count).requires_grad_(request.gradient)
                source.logits(rows, torch.zeros(request.count, dtype=torch.long), 0)

    return _pieces(process, ask)


def _attack(row: Row, image_shape: tuple[int, int, int], sizes: Counter[int], falls: bool) -> Pieces:
    source, attack = row.gradient, row.attack
    if source is None or attack is None:
        return Counter()
    (process,) = row.processes
    requests = rehearse(attack, source, process.num_classes, image_shape, falls)

    def of_batch(size: int) -> Pieces:
        found: Pieces = Counter()
        for request, times in requests.items():
            # Published code asks for logits, an image at a time; everything else is asked of the whole batch.
            times *= size if request.kind == "logits" else 1
            found.update(_scaled(request_pieces(source, process, request, size), times))
        return found

    return _times(sizes, of_batch)


def _times(sizes: Counter[int], of_batch: Callable[[int], Pieces]) -> Pieces:
    found: Pieces = Counter()
    for size, count in sizes.items():
        found.update(_scaled(of_batch(size), count))
    return found


def _scaled(pieces: Pieces, times: int) -> Pieces:
    return Counter({piece: count * times for piece, count in pieces.items()})


def _blank(images: int) -> Tensor:
    return torch.zeros(images, 1, 1, 1)


def _pieces(process: PurifiedClassifier, do: Callable[[], Any]) -> Pieces:
    """The pieces of whatever is done with a process."""
    with _hollow(process) as found:
        do()
    return found


@contextmanager
def _hollow(process: PurifiedClassifier) -> Iterator[Pieces]:
    """While it is open, purifier and classifier do nothing but count."""
    found: Pieces = Counter()

    def note(part: Part, x: Tensor) -> None:
        found[Piece(part, torch.is_grad_enabled() and x.requires_grad, len(x))] += 1

    def prepare(x: Tensor) -> tuple[Tensor, ...]:
        note("prepare", x)
        return ()

    def purify(x: Tensor, draws: Any, *prepared: Tensor) -> Tensor:
        note("purify", x)
        return x

    def classify(x: Tensor) -> Tensor:
        note("classify", x)
        return x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(process.num_classes)

    purifier, classifier = process.purifier, process.classifier
    with (
        replaced(purifier, "prepare", prepare),
        replaced(purifier, "purify", purify),
        replaced(classifier, "forward", classify),
    ):
        yield found


@contextmanager
def replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While it is open, a module has a method of its own, over its class's."""
    before = module.__dict__.get(name)
    object.__setattr__(module, name, function)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, before)
