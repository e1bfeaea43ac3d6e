"""What one chunk costs: rows through the networks and FLOPs exactly, seconds and memory as measured on this machine.

A purification may have a thousand denoiser calls. So a chunk runs with a stand-in for the denoiser, and again with one
real call; the difference, times the number of calls, is added. Where there is time, the whole chunk is timed as well.
"""

import math
import operator
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from statistics import median_low
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import hetpure.models.denoisers
from hetpure.arguments import KeepsArguments
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.hooks import after_calls
from hetpure.models.denoisers import Denoiser, DenoiserWrapper, Recomputed, innermost
from hetpure.noise import Draws
from hetpure.planning.counting import WORK, Piece, replaced
from hetpure.planning.live_bytes import peak_bytes

PASSES = 7
"""How often a whole piece is timed, at most."""

PIECE_SHARE = 0.25
"""Share of the measuring time that the estimate of one piece may take."""

Task = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """What some work costs; costs can be added, and multiplied by a number.

    Attributes:
        denoiser: rows through the denoiser without gradients.
        denoiser_gradient: rows with the gradient of the input; a recomputed call is one without and one with.
        classifier: rows through the classifier without gradients.
        classifier_gradient: rows with the gradient of the input.
        flops: floating-point operations.
        seconds: time on this machine.
    """

    denoiser: float = 0
    denoiser_gradient: float = 0
    classifier: float = 0
    classifier_gradient: float = 0
    flops: float = 0
    seconds: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, times: float) -> "Cost":
        return Cost(*(value * times for value in astuple(self)))


class Meter:
    """Measures pieces on two images, which repeat.

    Args:
        data: where the images come from.
        device: the device of the processes.
        seconds: time that timing may take.
        compiled: whether networks are compiled, for each number of rows anew.
    """

    def __init__(self, data: ImageDataModule, device: torch.device, seconds: float, compiled: bool = False) -> None:
        images = [torch.as_tensor(item(data.test_source, index)["image"]) for index in data.indices[:2]]
        self.images, self.device = torch.stack(images).to(device), device
        self.seconds, self.compiled = seconds, compiled
        self._known: dict[Any, Any] = {}

    def costs(self, pieces: Mapping[Piece, int]) -> dict[Piece, Cost]:
        """The cost of each piece, from how often each is computed: those that weigh most are timed whole first."""
        deadline = time.monotonic() + self.seconds
        alike: dict[Any, list[Piece]] = defaultdict(list)
        for piece in pieces:  # rows of a table share most of what they compute
            alike[_identity(piece.process, piece.work == "gradient"), piece.work, piece.rows].append(piece)
        costs = {same[0]: self._estimate(same[0]) for same in alike.values()}
        weights = {same[0]: costs[same[0]].seconds * sum(pieces[piece] for piece in same) for same in alike.values()}
        times: dict[Piece, list[float]] = defaultdict(list)
        for _ in range(PASSES):
            for piece in sorted(weights, key=lambda piece: weights[piece], reverse=True):
                if costs[piece].seconds < deadline - time.monotonic():
                    times[piece].append(self._timed(self._task(piece)))
        costs |= {piece: replace(costs[piece], seconds=median_low(seconds)) for piece, seconds in times.items()}
        return {piece: costs[same[0]] for same in alike.values() for piece in same}

    def estimated_time(self, piece: Piece) -> float:
        """Seconds for a piece, from runs with one real denoiser call at most."""
        name = f"time of {piece.rows} rows"  # of two runs: the first of anything is slow
        return self._extrapolated(piece, name, lambda task: min(self._timed(task), self._timed(task)))

    def memory(self, pieces: Iterable[Piece]) -> Callable[[int], float]:
        """Bytes that the largest of some pieces needs at once, by its number of rows: a line through one and two."""
        piece = min(pieces, key=lambda piece: WORK.index(piece.work))
        key = "memory", piece.work, _identity(piece.process, piece.work == "gradient")
        measure = partial(peak_bytes, device=self.device)
        # Images that recomputation keeps are kept one by one: what is reserved for them would hide what is needed.
        shelves = replaced((hetpure.models.denoisers, "SHELF_BYTES", 1))
        if key not in self._known:
            with torch.compiler.set_stance("force_eager"), shelves:
                self._known[key] = [
                    self._extrapolated(replace(piece, rows=rows), f"bytes of {rows} rows", measure, 1)
                    for rows in (1, 2)
                ]
        one, two = self._known[key]
        return lambda rows: one + max(two - one, 0.0) * (rows - 1)

    def _estimate(self, piece: Piece) -> Cost:
        """Counts at one row; the time at all rows, or at as many as are quick to measure."""
        with torch.compiler.set_stance("force_eager"):
            cost = self._extrapolated(replace(piece, rows=1), "counts", partial(self._counted, piece)) * piece.rows
        rows, start = piece.rows, time.monotonic()
        if not self.compiled:
            at_one = self.estimated_time(replace(piece, rows=1))
            affordable = PIECE_SHARE * self.seconds / (time.monotonic() - start)
            if affordable < 4:
                return replace(cost, seconds=at_one * rows)
            rows = min(rows, 4 ** int(math.log(affordable, 4)))
        return replace(cost, seconds=self.estimated_time(replace(piece, rows=rows)) * piece.rows / rows)

    def _extrapolated(self, piece: Piece, name: str, measure: Callable[[Task], Any], real: int = 0) -> Any:
        """A quantity that grows equally with each denoiser call, from runs with ``real`` calls and with one more.

        What a call adds is measured once for each name of the quantity, denoiser, and whether there is a gradient.
        """
        task = self._task(piece)

        def measured(counts: Mapping[Kind, int]) -> tuple[Any, Counter[Kind]]:
            with _stand_ins(piece.process.purifier, counts) as calls:
                return measure(lambda: (calls.clear(), task())), calls

        base, calls = measured(defaultdict(lambda: real))
        total = base
        for kind in [kind for kind, count in calls.items() if count > real]:
            key = name, _identity(*kind), kind[1]
            if key not in self._known:
                self._known[key] = measured(defaultdict(lambda: real, {kind: real + 1}))[0] + base * -1
            total += self._known[key] * (calls[kind] - real)
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
        synchronize = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        synchronize()
        start = time.perf_counter()
        task()
        synchronize()
        return time.perf_counter() - start

    def _task(self, piece: Piece) -> Task:
        """The work of a piece, its inputs made."""
        purifier, classifier = piece.process.purifier, piece.process.classifier
        number = torch.arange(piece.rows, device=self.device)
        image = number % len(self.images)
        x, draws = self.images[image], Draws(0, "selection", image, number)
        with torch.no_grad():
            prepared = [tensor[image] for tensor in purifier.prepare(self.images)]

        def task() -> None:
            with torch.set_grad_enabled(piece.work == "gradient"):
                leaf = x.clone().requires_grad_(piece.work == "gradient")
                if piece.work == "prepare":
                    purifier.prepare(leaf)
                    return
                purified = purifier.purify(leaf, draws, *prepared)
            if piece.work == "classifier gradient":
                leaf = purified = purified.requires_grad_()
            with torch.set_grad_enabled(piece.work != "prediction"):
                scores = classifier(purified)
            if scores.requires_grad:
                torch.autograd.grad(scores.sum(), leaf)

        return task


Kind = tuple[Denoiser, bool]
"""The calls of a denoiser without, or with, a gradient."""


class _StandIn(DenoiserWrapper):
    """A denoiser of which only the first calls of each kind are real; the others cost next to nothing."""

    def __init__(self, denoiser: Denoiser, calls: Counter[Kind], real: Mapping[Kind, int]) -> None:
        super().__init__(denoiser)
        self.calls, self.real = calls, real

    def forward(self, x: Tensor, t: int) -> Tensor:
        kind = self.denoiser, torch.is_grad_enabled() and x.requires_grad
        self.calls[kind] += 1
        return self.denoiser(x, t) if self.calls[kind] <= self.real[kind] else 0.1 * x


@contextmanager
def _stand_ins(purifier: nn.Module, real: Mapping[Kind, int]) -> Iterator[Counter[Kind]]:
    """Within the context, stand-ins replace a purifier's denoisers with all that wraps them, and count the calls."""
    calls = Counter[Kind]()
    parents = [module for module in purifier.modules() if not isinstance(module, Denoiser)]
    children = [(parent, name, child) for parent in parents for name, child in parent.named_children()]
    stand_ins = [(p, name, _StandIn(child, calls, real)) for p, name, child in children if isinstance(child, Denoiser)]
    with replaced(*stand_ins):
        yield calls


def _identity(value: Any, gradient: bool) -> Any:
    """Equal for modules that cost the same: their types and arguments, down to the networks themselves."""
    if isinstance(value, Recomputed) and not gradient:
        return _identity(value.denoiser, gradient)
    if isinstance(value, DenoiserWrapper):
        return type(value), _identity(value.denoiser, gradient)
    if isinstance(value, PurifiedClassifier):
        return _identity(value.purifier, gradient), id(value.classifier)
    if isinstance(value, KeepsArguments):
        return type(value), *((name, _identity(argument, gradient)) for name, argument in value.arguments.items())
    return id(value) if isinstance(value, nn.Module) else repr(value)
