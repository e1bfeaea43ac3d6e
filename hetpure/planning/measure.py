"""What one chunk costs: rows through the networks and FLOPs exactly, seconds and memory as measured on this machine.

A purification may have a thousand denoiser calls. So a chunk runs with a stand-in for the denoiser, and again with one
real call; the difference, times the number of calls, is added. Where there is time, the whole chunk is timed as well.
"""

import math
import operator
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from statistics import median_low
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.hooks import after_calls
from hetpure.models.denoisers import Denoiser, DenoiserWrapper, Recomputed, innermost
from hetpure.noise import Draws
from hetpure.planning.counting import WORK, Piece
from hetpure.planning.live_bytes import peak_bytes
from hetpure.purification.base import Purifier

PASSES = 7
"""How often a whole piece is timed, at most."""

PIECE_SHARE = 0.25
"""Share of the measuring time that the estimate of one piece may take."""

Task = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """What some work costs; costs can be added, and multiplied by a number."""

    denoiser: float = 0  # rows through the denoiser without gradients
    denoiser_gradient: float = 0  # and with the gradient of the input; a recomputed call is one without and one with
    classifier: float = 0
    classifier_gradient: float = 0
    flops: float = 0
    seconds: float = 0  # on this machine

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, times: float) -> "Cost":
        return Cost(*(value * times for value in astuple(self)))


class Meter:
    """Measures pieces on two of the data's images, which repeat; timing may take ``seconds``.

    Networks that are ``compiled`` are so for each number of rows anew.
    """

    def __init__(self, data: ImageDataModule, device: torch.device, seconds: float, compiled: bool = False) -> None:
        images = [torch.as_tensor(item(data.test_source, index)["image"]) for index in data.indices[:2]]
        self.images, self.device = torch.stack(images).to(device), device
        self.seconds, self.compiled = seconds, compiled
        self._known: dict[Any, Any] = {}

    def costs(self, pieces: Mapping[Piece, int]) -> dict[Piece, Cost]:
        """The cost of each piece, from how often each is computed: those that weigh most are timed whole first."""
        deadline = time.monotonic() + self.seconds
        first: dict[Any, Piece] = {}
        # Rows of a table share most of what they compute.
        alike = {piece: first.setdefault((_identity_of(piece), piece.rows), piece) for piece in pieces}
        costs = {piece: self._estimate(piece) for piece in first.values()}
        weights, times = defaultdict[Piece, float](float), defaultdict[Piece, list[float]](list)
        for piece, count in pieces.items():
            weights[alike[piece]] += costs[alike[piece]].seconds * count
        for _ in range(PASSES):
            for piece in sorted(weights, key=weights.__getitem__, reverse=True):
                if costs[piece].seconds < deadline - time.monotonic():
                    times[piece].append(self._timed(self._task(piece)))
        costs |= {piece: replace(costs[piece], seconds=median_low(seconds)) for piece, seconds in times.items()}
        return {piece: costs[same] for piece, same in alike.items()}

    def estimated_time(self, piece: Piece) -> float:
        """Seconds for a piece, from runs with one real denoiser call at most."""
        name = f"time of {piece.rows} rows"  # of two runs: the first of anything is slow
        return self._extrapolated(piece, name, lambda task: min(self._timed(task), self._timed(task)))

    def memory(self, pieces: Iterable[Piece]) -> Callable[[int], float]:
        """Bytes that the largest of some pieces needs at once, by its number of rows: a line through one and two."""
        piece = min(pieces, key=lambda piece: WORK.index(piece.work))
        key, measure = ("memory", _identity_of(piece)), partial(peak_bytes, device=self.device)
        if key not in self._known:
            few = [replace(piece, rows=rows) for rows in (1, 2)]
            # Images that recomputation keeps are kept one by one: what is reserved for them would hide what is needed.
            with torch.compiler.set_stance("force_eager"), patch("hetpure.models.denoisers.SHELF_BYTES", 1):
                self._known[key] = [self._extrapolated(p, f"bytes of {p.rows} rows", measure, real=1) for p in few]
        one, two = self._known[key]
        return lambda rows: one + max(two - one, 0.0) * (rows - 1)

    def timesteps(self, pieces: Iterable[Piece]) -> list[int]:
        """Those of the calls with a gradient in the largest of some pieces, in order."""
        piece, found = min(pieces, key=lambda piece: WORK.index(piece.work)), set[int]()

        def forward(_denoiser: Denoiser, _original: Callable[..., Tensor], x: Tensor, t: int) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                found.add(t)
            return 0.1 * x

        with _instead_of_calls(piece.process.purifier, forward):
            self._task(replace(piece, rows=1))()
        return sorted(found)

    def _estimate(self, piece: Piece) -> Cost:
        """Counts at one row; the time at all rows, or at as many as are quick to measure."""
        with torch.compiler.set_stance("force_eager"):
            cost = self._extrapolated(replace(piece, rows=1), "counts", partial(self._counted, piece)) * piece.rows
        rows, start = piece.rows, time.monotonic()
        if not self.compiled:
            self.estimated_time(replace(piece, rows=1))
            affordable = PIECE_SHARE * self.seconds / (time.monotonic() - start)
            rows = min(rows, 4 ** int(math.log(max(affordable, 1), 4)))
        return replace(cost, seconds=self.estimated_time(replace(piece, rows=rows)) * piece.rows / rows)

    def _extrapolated(self, piece: Piece, name: str, measure: Callable[[Task], Any], real: int = 0) -> Any:
        """A quantity that grows equally with each denoiser call, from runs with ``real`` calls and with one more.

        What a call adds is measured once for each name of the quantity, denoiser, and whether there is a gradient.
        """
        purifier, task, calls, more = piece.process.purifier, self._task(piece), Counter[Any](), None

        def forward(denoiser: Denoiser, original: Callable[..., Tensor], x: Tensor, t: int) -> Tensor:
            at_t = denoiser.at(t) if isinstance(denoiser, Recomputed) else denoiser
            kind = at_t, torch.is_grad_enabled() and x.requires_grad
            calls[kind] += 1
            return original(x, t) if calls[kind] <= real + (kind == more) else 0.1 * x

        def run() -> None:
            calls.clear()
            task()

        with _instead_of_calls(purifier, forward):
            base = total = measure(run)
            for more, count in [(kind, count) for kind, count in calls.items() if count > real]:
                key = name, _identity(*more), more[1]
                if key not in self._known:
                    self._known[key] = measure(run) + base * -1
                total += self._known[key] * (count - real)
        return total

    def _counted(self, piece: Piece, task: Task) -> Cost:
        """Rows through the networks, and FLOPs."""
        rows, network = Counter[str](), piece.process.classifier.network
        if hasattr(network, "forward_intermediates"):
            # timm's feature interface goes round ``forward``, but not round the first layer.
            network = next(module for module in network.modules() if not list(module.children()))

        def count(module: nn.Module, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
            name = "classifier" if module is network else "denoiser"
            gradient = torch.is_grad_enabled() and arguments[0].requires_grad
            rows[f"{name}_gradient" if gradient else name] += len(arguments[0])

        # Without names of modules: the hooks for those forbid gradients within a module's forward pass.
        counter, no_names = FlopCounterMode(display=False), nullcontext()
        vars(no_names)["parents"], vars(counter)["mod_tracker"] = ("Global",), no_names
        with after_calls([network, *innermost(piece.process.purifier)], count), counter:
            task()
        return Cost(**rows, flops=counter.get_total_flops())

    def _timed(self, task: Task) -> float:
        start = time.perf_counter()
        task()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _task(self, piece: Piece) -> Task:
        """The work of a piece, its inputs made."""
        purifier = piece.process.purifier
        number = torch.arange(piece.rows, device=self.device)
        image = number % len(self.images)
        x, draws = self.images[image], Draws(0, "selection", image, number)
        if piece.work == "prepare":
            return torch.no_grad()(lambda: purifier.prepare(x))
        with torch.no_grad():
            prepared = [tensor[image] for tensor in purifier.prepare(self.images)]

        def task() -> None:
            with torch.set_grad_enabled(_through_purifier(piece)):
                leaf = x.clone().requires_grad_(_through_purifier(piece))
                purified = purifier.purify(leaf, draws, *prepared)
            if piece.work == "purifier gradient":
                torch.autograd.grad(purified.sum(), leaf)
                return
            if piece.work == "classifier gradient":
                leaf = purified = purified.requires_grad_()
            with torch.set_grad_enabled(piece.work != "prediction"):
                scores = piece.process.classify(purified, draws)
            if scores.requires_grad:
                torch.autograd.grad(scores.sum(), leaf)

        return task


@contextmanager
def _instead_of_calls(purifier: Purifier, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Calls ``forward(denoiser, original, x, t)`` in place of a purifier's calls of denoisers, ``original(x, t)``."""
    parents = [module for module in purifier.modules() if not isinstance(module, Denoiser)]
    with ExitStack() as stack:
        for denoiser in {child for parent in parents for child in parent.children() if isinstance(child, Denoiser)}:
            stack.enter_context(patch.object(denoiser, "forward", partial(forward, denoiser, denoiser.forward)))
        yield


def _identity_of(piece: Piece) -> Any:
    """Equal for pieces that cost the same a row."""
    return _identity(piece.process.purifier, _through_purifier(piece)), id(piece.process.classifier), piece.work


def _through_purifier(piece: Piece) -> bool:
    """Whether there is a graph of the purification."""
    return piece.work in ("gradient", "purifier gradient")


def _identity(value: Any, gradient: bool) -> Any:
    """Equal for modules that cost the same: their types and arguments, down to the networks themselves."""
    if isinstance(value, DenoiserWrapper):
        inner = _identity(value.denoiser, gradient)
        if isinstance(value, Recomputed):
            return (Recomputed, value.from_t, inner) if gradient else inner
        return type(value), inner
    if isinstance(value, Purifier):
        return type(value), *((name, _identity(argument, gradient)) for name, argument in value.arguments.items())
    return id(value) if isinstance(value, nn.Module) else repr(value)
