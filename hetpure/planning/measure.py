"""What one chunk costs: rows through the networks and FLOPs exactly, seconds and memory as measured on this machine.

A purification may have a thousand denoiser calls. So a chunk first runs with a stand-in for the denoiser, then with one
real call; the difference, times the number of calls, is what all calls cost. Where there is time, whole chunks are timed.
"""

import operator
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hetpure.arguments import KeepsArguments
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.evaluation.build import Row
from hetpure.models.denoisers import Denoiser, DenoiserWrapper, Recomputed, innermost
from hetpure.noise import Draws
from hetpure.planning.counting import Piece, replaced
from hetpure.planning.live_bytes import peak_bytes

ESTIMATE_SHARE = 0.05
"""Share of the measuring time that the estimate of one piece may take."""

REPEATS = 20
"""How often a piece is timed, at most."""

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
        cpu_seconds: time that this process computed, summed over its threads.
    """

    denoiser: float = 0
    denoiser_gradient: float = 0
    classifier: float = 0
    classifier_gradient: float = 0
    flops: float = 0
    seconds: float = 0
    cpu_seconds: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, times: float) -> "Cost":
        return Cost(*(value * times for value in astuple(self)))

    @property
    def network_rows(self) -> tuple[float, ...]:
        """The first four attributes."""
        return astuple(self)[:4]


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
        self._memory: dict[Any, Callable[[int], float]] = {}

    def costs(self, pieces: Mapping[Piece, int]) -> dict[Piece, Cost]:
        """The cost of each piece; those that weigh most are timed first, while there is time.

        Args:
            pieces: how often each piece is computed.
        """
        deadline = time.monotonic() + self.seconds
        kinds: dict[Any, list[Piece]] = defaultdict(list)
        for piece in pieces:  # rows of a table share most of what they compute
            module = piece.process.classifier if piece.part == "classify" else piece.process.purifier
            kinds[_identity(module, piece.gradient), replace(piece, process=None)].append(piece)
        costs = {kind: self._estimate(same[0]) for kind, same in kinds.items()}
        weights = {kind: costs[kind].seconds * sum(pieces[piece] for piece in same) for kind, same in kinds.items()}
        runs: dict[Any, list[Cost]] = defaultdict(list)
        for _ in range(REPEATS):
            for kind in sorted(kinds, key=lambda kind: weights[kind], reverse=True):
                if costs[kind].seconds < deadline - time.monotonic():
                    runs[kind].append(self._timed(self._task(kinds[kind][0], kinds[kind][0].rows)))
        for kind, timed in runs.items():
            timed = timed[1:] or timed  # the first run of anything is slow
            mean = sum(timed, Cost()) * (1 / len(timed))
            costs[kind] = replace(costs[kind], seconds=mean.seconds, cpu_seconds=mean.cpu_seconds)
        return {piece: costs[kind] for kind, same in kinds.items() for piece in same}

    def piece_seconds(self, piece: Piece) -> float:
        """The least of three estimates of the time for a piece."""
        task = self._task(piece, piece.rows)
        return min(_extrapolated(piece.process, lambda: self._timed(task)).seconds for _ in range(3))

    def memory(self, row: Row, recomputed: bool | None = None) -> Callable[[int], float]:
        """Bytes at once, by the rows of a chunk: of a row's gradient, or of its prediction without an attack.

        Args:
            row: the row, built.
            recomputed: whether the denoiser's graphs are recomputed, or those of all calls kept; by default as built.
        """
        process, gradient = (*row.processes, row.model)[0], bool(row.processes)
        if recomputed is None:
            recomputed = any(isinstance(module, Recomputed) for module in process.purifier.modules())

        def needed(rows: int) -> float:
            x, draws, prepared = self._inputs(process, rows)
            task = _run(lambda y: process.classifier(process.purifier.purify(y, draws, *prepared)), x, gradient)
            if not recomputed:
                return _extrapolated(process, lambda: float(peak_bytes(task, self.device)), real=1, recompute=False)
            with _stand_ins(process, 1, recompute=False) as calls:
                peak = peak_bytes(task, self.device)
            return peak + sum(calls.values()) * x.nbytes

        key = _identity(process.purifier, False), id(process.classifier), gradient, recomputed
        if key not in self._memory:
            with torch.compiler.set_stance("force_eager"):
                one, two = needed(1), needed(2)
            self._memory[key] = lambda rows: one + max(two - one, 0.0) * (rows - 1)
        return self._memory[key]

    def _estimate(self, piece: Piece) -> Cost:
        """Counts at one row; the time at as many rows as can be afforded."""
        task = self._task(piece, 1)
        with torch.compiler.set_stance("force_eager"):
            cost = _extrapolated(piece.process, lambda: self._counted(piece.process, task)) * piece.rows
        rows = piece.rows if self.compiled else 1
        while True:
            start, task = time.monotonic(), self._task(piece, rows)
            timed = _extrapolated(piece.process, lambda task=task: self._timed(task)) * (piece.rows / rows)
            if rows == piece.rows or 4 * (time.monotonic() - start) > ESTIMATE_SHARE * self.seconds:
                return replace(cost, seconds=timed.seconds, cpu_seconds=timed.cpu_seconds)
            rows = min(4 * rows, piece.rows)

    def _counted(self, process: PurifiedClassifier, task: Task) -> Cost:
        """Rows through the networks of a process, and FLOPs."""
        rows = Counter[str]()

        def count(name: str, x: Tensor) -> None:
            rows[f"{name}_gradient" if torch.is_grad_enabled() and x.requires_grad else name] += len(x)

        network = process.classifier.network
        if hasattr(network, "forward_intermediates"):
            # timm's feature interface goes round ``forward``, but not round the first layer.
            network = next(module for module in network.modules() if not list(module.children()))
        hooks = [network.register_forward_pre_hook(lambda _, arguments: count("classifier", arguments[0]))]
        for denoiser in innermost(process.purifier):
            hooks.append(denoiser.register_forward_pre_hook(lambda _, arguments: count("denoiser", arguments[0])))
        # Without names of modules: the hooks for those forbid gradients within a module's forward pass.
        counter, no_names = FlopCounterMode(display=False), nullcontext()
        vars(no_names)["parents"], vars(counter)["mod_tracker"] = ("Global",), no_names
        try:
            with counter:
                task()
        finally:
            for hook in hooks:
                hook.remove()
        return Cost(**rows, flops=counter.get_total_flops())

    def _timed(self, task: Task) -> Cost:
        self._synchronize()
        clock, cpu = time.perf_counter(), time.process_time()
        task()
        self._synchronize()
        return Cost(seconds=time.perf_counter() - clock, cpu_seconds=time.process_time() - cpu)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _task(self, piece: Piece, rows: int) -> Task:
        """The work of a piece on a number of rows, its inputs made."""
        process = piece.process
        x, draws, prepared = self._inputs(process, rows)
        parts: dict[str, Callable[[Tensor], Any]] = {
            "prepare": process.purifier.prepare,
            "purify": lambda y: process.purifier.purify(y, draws, *prepared),
            "classify": process.classifier,
        }
        return _run(parts[piece.part], x, piece.gradient)

    def _inputs(self, process: PurifiedClassifier, rows: int) -> tuple[Tensor, Draws, tuple[Tensor, ...]]:
        number = torch.arange(rows, device=self.device)
        image = number % len(self.images)
        with torch.no_grad():
            prepared = process.purifier.prepare(self.images)
        return self.images[image], Draws(0, "selection", image, number), tuple(tensor[image] for tensor in prepared)


def _run(function: Callable[[Tensor], Any], x: Tensor, gradient: bool) -> Task:
    """Calls a function on x, and takes the gradient of the sum of its values."""

    @torch.set_grad_enabled(gradient)
    def run() -> None:
        leaf = x.clone().requires_grad_(gradient)
        out = function(leaf)
        if gradient and out.requires_grad:
            torch.autograd.grad(out.sum(), leaf)

    return run


Calls = Counter[tuple[Denoiser, bool]]
"""Calls of each denoiser without and with gradients."""


class _StandIn(DenoiserWrapper):
    """A denoiser of which only the first calls of each kind are real."""

    def __init__(self, denoiser: Denoiser, calls: Calls, real: Mapping[tuple[Denoiser, bool], int]) -> None:
        super().__init__(denoiser)
        self.calls, self.real = calls, real

    def forward(self, x: Tensor, t: int) -> Tensor:
        kind = self.denoiser, torch.is_grad_enabled() and x.requires_grad
        self.calls[kind] += 1
        return self.denoiser(x, t) if self.calls[kind] <= self.real[kind] else 0.1 * x


@contextmanager
def _stand_ins(
    process: PurifiedClassifier, real: int, one_more: tuple[Denoiser, bool] | None = None, recompute: bool = True
) -> Iterator[Calls]:
    """Within the context, the first calls of a process's denoisers are real, of one kind one more, the rest cost nothing.

    Args:
        process: the defense or the attack process.
        real: how many calls of each kind are real.
        one_more: the kind.
        recompute: whether recomputed denoisers recompute; else they keep their graphs.
    """
    calls, counts = Calls(), defaultdict(lambda: real)
    if one_more:
        counts[one_more] += 1
    children = []
    for parent in process.purifier.modules():
        for name, child in parent.named_children():
            if isinstance(child, Denoiser) and not isinstance(parent, Denoiser):
                inner = child.denoiser if isinstance(child, Recomputed) and not recompute else child
                children.append((parent, name, _StandIn(inner, calls, counts)))
    with replaced(*children):
        yield calls


def _extrapolated(
    process: PurifiedClassifier, measure: Callable[[], Any], real: int = 0, recompute: bool = True
) -> Any:
    """A quantity that grows by the same amount with each denoiser call, from ``real`` calls of each kind and one more."""
    with _stand_ins(process, real, None, recompute) as calls:
        total = base = measure()
    for kind, count in calls.items():
        if count > real:
            with _stand_ins(process, real, kind, recompute):
                total += (measure() + base * -1) * (count - real)
    return total


def _identity(value: Any, gradient: bool) -> Any:
    """Equal for modules that cost the same: their types and arguments, down to the networks themselves."""
    if isinstance(value, Recomputed) and not gradient:
        return _identity(value.denoiser, gradient)
    if isinstance(value, DenoiserWrapper):
        return type(value), _identity(value.denoiser, gradient)
    if isinstance(value, KeepsArguments):
        return type(value), *((name, _identity(argument, gradient)) for name, argument in value.arguments.items())
    return id(value) if isinstance(value, nn.Module) else repr(value)
