"""What one chunk costs: rows through the networks and FLOPs exactly, seconds and memory as measured on this machine.

A purification may have a thousand denoiser calls. So a chunk runs with a stand-in for the denoiser, and again with one
real call; the difference, times the number of calls, is added. Where there is time, the whole chunk is timed as well.
"""

import operator
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
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

MOMENT = 0.1
"""Seconds in which a short task is timed as often as it can be."""

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
        """The cost of each piece; whole pieces are timed while there is time, first those that weigh most.

        Args:
            pieces: how often each piece is computed.
        """
        deadline = time.monotonic() + self.seconds
        alike: dict[Any, list[Piece]] = defaultdict(list)
        for piece in pieces:  # rows of a table share most of what they compute
            module = piece.process.classifier if piece.part == "classify" else piece.process.purifier
            alike[_identity(module, piece.gradient), piece.part, piece.gradient, piece.rows].append(piece)
        costs = {same[0]: self._estimate(same[0], deadline) for same in alike.values()}
        weights = {same[0]: costs[same[0]].seconds * sum(pieces[piece] for piece in same) for same in alike.values()}
        for piece in sorted(weights, key=lambda piece: weights[piece], reverse=True):
            if costs[piece].seconds < deadline - time.monotonic():
                timed = self._timed(self._task(piece, piece.rows))
                costs[piece] = replace(costs[piece], seconds=timed.seconds, cpu_seconds=timed.cpu_seconds)
        return {piece: costs[same[0]] for same in alike.values() for piece in same}

    def estimated_time(self, piece: Piece) -> Cost:
        """The time for a piece, from runs with one denoiser call at most."""
        name, task = f"time of {piece.rows} rows", self._task(piece, piece.rows)
        return self._extrapolated(piece.process, name, task, lambda task: self._timed(task, runs=2))

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
                return self._extrapolated(process, f"bytes of {rows} rows", task, self._peak, real=1, recompute=False)
            with _stand_ins(process, defaultdict(lambda: 1), recompute=False) as calls:
                return self._peak(task) + sum(calls.values()) * x.nbytes

        key = _identity(process.purifier, False), id(process.classifier), gradient, recomputed
        if key not in self._known:
            with torch.compiler.set_stance("force_eager"):
                self._known[key] = needed(1), needed(2)
        one, two = self._known[key]
        return lambda rows: one + max(two - one, 0.0) * (rows - 1)

    def _estimate(self, piece: Piece, deadline: float) -> Cost:
        """Counts at one row; the time from all rows with one denoiser call, where there is time, else at one row."""
        start, task = time.monotonic(), self._task(piece, 1)
        with torch.compiler.set_stance("force_eager"):
            counted = self._extrapolated(piece.process, "counts", task, partial(self._counted, piece.process))
        cost = counted * piece.rows
        now = time.monotonic()
        if now + piece.rows * (now - start) > deadline and not self.compiled:
            return cost
        timed = self.estimated_time(piece)
        return replace(cost, seconds=timed.seconds, cpu_seconds=timed.cpu_seconds)

    def _extrapolated(
        self,
        process: PurifiedClassifier,
        name: str,
        task: Task,
        measure: Callable[[Task], Any],
        real: int = 0,
        recompute: bool = True,
    ) -> Any:
        """A quantity that grows by the same amount with each denoiser call, from ``real`` calls and one more.

        What one more call adds is measured once for each name, denoiser, and whether there is a gradient.
        """
        with _stand_ins(process, defaultdict(lambda: real), recompute) as calls:
            total = base = measure(lambda: (calls.clear(), task()))
        for kind, count in calls.items():
            key = name, _identity(*kind), kind[1]
            if count > real and key not in self._known:
                with _stand_ins(process, defaultdict(lambda: real, {kind: real + 1}), recompute) as new_calls:
                    self._known[key] = measure(lambda: (new_calls.clear(), task())) + base * -1
            if count > real:
                total += self._known[key] * (count - real)
        return total

    def _counted(self, process: PurifiedClassifier, task: Task) -> Cost:
        """Rows through the networks of a process, FLOPs, and a rough time."""
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
        start = time.monotonic()
        try:
            with counter:
                task()
        finally:
            for hook in hooks:
                hook.remove()
        return Cost(**rows, flops=counter.get_total_flops(), seconds=time.monotonic() - start)

    def _timed(self, task: Task, runs: int = 1) -> Cost:
        """The time of a task: the median of some runs, and of more within a moment."""
        start, times = time.monotonic(), []
        while len(times) < runs or time.monotonic() - start < MOMENT:
            self._synchronize()
            clock, cpu = time.perf_counter(), time.process_time()
            task()
            self._synchronize()
            times.append((time.perf_counter() - clock, time.process_time() - cpu))
        seconds, cpu_seconds = sorted(times)[(len(times) - 1) // 2]
        return Cost(seconds=seconds, cpu_seconds=cpu_seconds)

    def _peak(self, task: Task) -> int:
        return peak_bytes(task, self.device)

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


Kind = tuple[Denoiser, bool]
"""Calls of a denoiser, without or with a gradient."""


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
def _stand_ins(process: PurifiedClassifier, real: Mapping[Kind, int], recompute: bool) -> Iterator[Counter[Kind]]:
    """Within the context, stand-ins count the calls of a process's denoisers; ``recompute`` False keeps all graphs."""
    calls, children = Counter[Kind](), []
    for parent in process.purifier.modules():
        for name, child in parent.named_children():
            if isinstance(child, Denoiser) and not isinstance(parent, Denoiser):
                inner = child.denoiser if isinstance(child, Recomputed) and not recompute else child
                children.append((parent, name, _StandIn(inner, calls, real)))
    with replaced(*children):
        yield calls


def _identity(value: Any, gradient: bool) -> Any:
    """Equal for modules that cost the same: their types and arguments, down to the networks themselves."""
    if isinstance(value, Recomputed) and not gradient:
        return _identity(value.denoiser, gradient)
    if isinstance(value, DenoiserWrapper):
        return type(value), _identity(value.denoiser, gradient)
    if isinstance(value, KeepsArguments):
        return type(value), *((name, _identity(argument, gradient)) for name, argument in value.arguments.items())
    return id(value) if isinstance(value, nn.Module) else repr(value)
