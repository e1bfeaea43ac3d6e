"""What one piece of work costs: network calls and FLOPs exactly, seconds and memory measured on this machine.

A denoiser's calls and everything around them are looked at apart: around them, the real purifier runs with a denoiser
that does next to nothing, which takes moments even where a thousand calls would take hours; a call is measured alone.
Where there is time for it, a piece is also timed whole.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Denoiser, Recomputed, innermost
from hetpure.models.precision import Lowered
from hetpure.noise import Draws
from hetpure.planning.live_bytes import peak_bytes
from hetpure.planning.work import Piece, replaced

PROBE_SHARE = 0.05
"""A probe grows to more rows while it takes less than this share of the time that there is."""

OFTEN = 50
"""Runs of one piece that are enough."""

INPUT_GRADIENT = 3.0
"""A call with the gradient of its input, in calls without, where not even one could be timed: a forward pass and, in
convolutions, as many operations again; on CPUs it took up to three times a forward pass."""


@dataclass
class Calls:
    """Rows through the networks: without and with the gradient of the input (a recomputed call is one of each)."""

    denoiser: int = 0
    denoiser_gradient: int = 0
    classifier: int = 0
    classifier_gradient: int = 0

    def add(self, other: "Calls", times: int = 1) -> None:
        """Adds another's rows, that many times."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


@dataclass(frozen=True)
class Memory:
    """Bytes at once, ``base + per_row * rows``."""

    base: float
    per_row: float

    def at(self, rows: int) -> float:
        """Of a chunk of so many rows."""
        return self.base + self.per_row * rows


@dataclass(frozen=True)
class Span:
    """Seconds of something: by the clock, and those in which this process computed (its threads' together)."""

    clock: float = 0.0
    busy: float = 0.0

    def __add__(self, other: "Span") -> "Span":
        return Span(self.clock + other.clock, self.busy + other.busy)

    def __mul__(self, times: float) -> "Span":
        return Span(self.clock * times, self.busy * times)


@dataclass
class Timing:
    """How long something took at a number of rows, each time."""

    rows: int
    spans: list[Span] = field(default_factory=list)

    def at(self, rows: int) -> Span:
        """The mean, for that many rows, in proportion."""
        return sum(self.spans, Span()) * (rows / self.rows / len(self.spans))


class _WholeProgram:
    """Stands for the counter's record of modules, whose hooks forbid a gradient within a module's forward pass."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _flop_counter() -> FlopCounterMode:
    """Counts all FLOPs as one sum, whatever modules they are of."""
    counter = FlopCounterMode(display=False)
    vars(counter)["mod_tracker"] = _WholeProgram()
    return counter


class Meter:
    """Measures pieces; asked twice, it answers at once.

    Args:
        images: real images (N, C, H, W) to measure with, on the device of the processes.
        seconds: that timing may take, all together.
        grows: whether times at few rows are tried before many: not where each number of rows is compiled for.
    """

    def __init__(self, images: Tensor, seconds: float, grows: bool = True) -> None:
        self.images, self.device, self.grows = images, images.device, grows
        self.limit, self.deadline = seconds, time.monotonic() + seconds
        self._flops: dict[tuple[int, bool], float] = {}
        self._calls: dict[tuple[int, bool], Timing] = {}

    # ---- counts

    def calls(self, process: PurifiedClassifier, piece: Piece) -> tuple[Calls, float]:
        """Rows through the networks, and FLOPs, for one row of a piece."""
        work = self.perform(process, piece, rows=1)
        with _eager(), _counted(process, stand_in=True) as found, _flop_counter() as counter:
            work()
        flops = float(counter.get_total_flops())
        # One network: a purifier with several denoisers is counted as if all were its first.
        for denoiser in innermost(process.purifier)[:1]:
            flops += found.denoiser * self._call_flops(denoiser, gradient=False)
            flops += found.denoiser_gradient * self._call_flops(denoiser, gradient=True)
        return found, flops

    def _call_flops(self, denoiser: Denoiser, gradient: bool) -> float:
        key = id(denoiser), gradient
        if key not in self._flops:
            with _eager():
                self._flops[key] = _call_flops(denoiser, self.images[:1], gradient)
        return self._flops[key]

    # ---- memory

    def memory(self, process: PurifiedClassifier, recomputed: bool | None = None) -> Memory:
        """Of one chunk's gradient through purifier and classifier.

        Bytes alive at once, at one and at two rows: around the denoiser's calls, and in a call. Graphs that are kept
        add up; a recomputed one comes once.

        Args:
            process: the attack process.
            recomputed: whether the denoiser is; None for as it is.
        """
        if recomputed is None:
            recomputed = any(isinstance(module, Recomputed) for module in process.purifier.modules())
        return self._line(lambda rows: self._gradient_bytes(process, rows, recomputed))

    def defense_memory(self, process: PurifiedClassifier) -> Memory:
        """Of one chunk's purification and classification, without gradients."""
        return self._line(lambda rows: self._prediction_bytes(process, rows))

    def _line(self, at: Callable[[int], float]) -> Memory:
        with _eager():
            one, two = at(1), at(2)
        slope = max(two - one, 0.0)
        return Memory(max(one - slope, 0.0), slope)

    def _gradient_bytes(self, process: PurifiedClassifier, rows: int, recomputed: bool) -> float:
        x, draws, prepared = self._chunk(process, rows)

        def gradient() -> None:
            leaf = x.clone().requires_grad_()
            logits = process.classifier(process.purifier.purify(leaf, draws, *prepared))
            torch.autograd.grad(logits.sum(), leaf)

        with _counted(process, stand_in=True) as found, _straight(process):
            around = float(peak_bytes(gradient, self.device))
        calls = found.denoiser_gradient // rows
        for denoiser in _denoiser(process):
            kept, peak = _graph_bytes(denoiser, x)
            image = x.numel() * x.element_size()
            around += peak + (calls * image if recomputed else max(calls - 1, 0) * kept)
        return around

    def _prediction_bytes(self, process: PurifiedClassifier, rows: int) -> float:
        x, draws, prepared = self._chunk(process, rows)

        @torch.no_grad()
        def predict() -> None:
            process.classifier(process.purifier.purify(x, draws, *prepared))

        with _counted(process, stand_in=True):
            around = peak_bytes(predict, self.device)
        for denoiser in _denoiser(process):
            with torch.no_grad():
                around += peak_bytes(lambda denoiser=denoiser: denoiser(x, 1), self.device)
        return around

    # ---- time

    def spans(self, wanted: dict[Any, tuple[PurifiedClassifier, Piece, float]]) -> dict[Any, Span]:
        """How long pieces take, by key; those that matter most are measured most often.

        Args:
            wanted: process, piece, and how often it will come, by key.
        """
        self.deadline = time.monotonic() + self.limit
        estimates = {key: self._estimate(process, piece) for key, (process, piece, _) in wanted.items()}
        whole = self._whole(wanted, estimates)
        return {key: whole[key].at(wanted[key][1].rows) if key in whole else estimates[key] for key in wanted}

    def _estimate(self, process: PurifiedClassifier, piece: Piece) -> Span:
        """What is around the denoiser's calls, and the calls."""

        def around(rows: int) -> Span:
            with _counted(process, stand_in=True):
                return self._timed(self.perform(process, piece, rows))

        found, _ = self.calls(process, piece)
        span = self._probe(around, piece.rows).at(piece.rows)
        for denoiser in _denoiser(process):
            for count, gradient in ((found.denoiser, False), (found.denoiser_gradient, True)):
                if count:
                    span += self._call(denoiser, gradient, piece.rows).at(piece.rows) * count
        return span

    def _call(self, denoiser: Denoiser, gradient: bool, rows: int) -> Timing:
        """Of one call of a denoiser, at as many rows as there is time for."""
        key = id(denoiser), gradient
        if key in self._calls and self._calls[key].rows >= rows:
            return self._calls[key]
        if gradient:
            guess = self._call(denoiser, False, rows).at(1) * INPUT_GRADIENT
            if guess.clock > self.deadline - time.monotonic():
                return Timing(1, [guess])

        def once(rows: int) -> Span:
            x = self._rows(rows)
            return self._timed(lambda: _call(denoiser, x, gradient))

        self._calls[key] = self._probe(once, rows)
        return self._calls[key]

    def _probe(self, once: Callable[[int], Span], most: int) -> Timing:
        """At 1, 4, 16, .. rows up to ``most``, while there is time; the last counts."""
        if not self.grows:
            once(most)
            return Timing(most, [once(most)])
        rows, short = 1, PROBE_SHARE * self.limit
        found = Timing(1, [once(1)])
        if found.at(1).clock < short:
            found = Timing(1, [once(1)])  # the first call of anything is slow
        while rows < most and found.at(min(4 * rows, most)).clock < short:
            rows = min(4 * rows, most)
            found = Timing(rows, [once(rows)])
        return found

    def _whole(
        self, wanted: dict[Any, tuple[PurifiedClassifier, Piece, float]], estimates: dict[Any, Span]
    ) -> dict[Any, Timing]:
        """As many runs of the whole pieces as there is time for, shared out by what they weigh."""
        runs: dict[Any, Timing] = {}
        guess = {key: span.clock for key, span in estimates.items()}
        total = sum(guess[key] * wanted[key][2] for key in wanted) or 1.0
        while True:
            left = self.deadline - time.monotonic()
            fits = [key for key in wanted if guess[key] <= left]
            if not fits:
                return runs
            # Each once, the heaviest first; then whatever is weightiest for the times it was measured.
            heaviest = max(fits, key=lambda key: _weight(guess[key] * wanted[key][2] / total, runs.get(key)))
            process, piece, _ = wanted[heaviest]
            found = runs.setdefault(heaviest, Timing(piece.rows))
            found.spans.append(self._timed(self.perform(process, piece, piece.rows)))
            guess[heaviest] = found.at(piece.rows).clock
            if len(found.spans) >= OFTEN:
                guess[heaviest] = float("inf")

    def call_seconds(self, process: PurifiedClassifier, rows: int) -> float:
        """The least of three times for a gradient through the process's denoiser (its classifier, without one)."""
        x = self._rows(rows)
        denoisers = _denoiser(process)

        def network(y: Tensor) -> Tensor:
            return denoisers[0](y, 1) if denoisers else process.classifier(y)

        with _eager():
            return min(self._timed(lambda: _differentiated(network, x, True)).clock for _ in range(3))

    def _timed(self, do: Callable[[], Any]) -> Span:
        self._wait()
        clock, busy = time.perf_counter(), time.process_time()
        do()
        self._wait()
        return Span(time.perf_counter() - clock, time.process_time() - busy)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ---- doing it

    def perform(self, process: PurifiedClassifier, piece: Piece, rows: int) -> Callable[[], None]:
        """A piece of work, ready to be done, on that many rows."""
        if piece.part == "prepare":
            x = self._rows(rows)

            @torch.no_grad()
            def prepare() -> None:
                process.purifier.prepare(x)

            return prepare
        if piece.part == "classify":
            x = self._rows(rows)
            return lambda: _differentiated(process.classifier, x, piece.gradient)
        x, draws, prepared = self._chunk(process, rows)
        return lambda: _differentiated(lambda y: process.purifier.purify(y, draws, *prepared), x, piece.gradient)

    def _chunk(self, process: PurifiedClassifier, rows: int) -> tuple[Tensor, Draws, tuple[Tensor, ...]]:
        """Images, keys and what is prepared for them (for a few images, which repeat)."""
        number = torch.arange(rows, device=self.device)
        draws = Draws(0, "selection", number % len(self.images), number)
        few = self.images[: min(rows, 2)]
        with torch.no_grad():
            prepared = process.purifier.prepare(few)
        repeated = number % len(few)
        return few[repeated], draws, tuple(p[repeated] for p in prepared)

    def _rows(self, rows: int) -> Tensor:
        return self.images[torch.arange(rows, device=self.device) % len(self.images)]


def _denoiser(process: PurifiedClassifier) -> list[Denoiser]:
    """The denoiser as the process's precision has it, if there is one; of several, the first."""
    modules = list(process.purifier.modules())
    return [*(m for m in modules if isinstance(m, Lowered)), *innermost(process.purifier)][:1]


def _weight(share: float, runs: Timing | None) -> float:
    return 1.0 + share if runs is None else share / len(runs.spans)


def _differentiated(function: Callable[[Tensor], Tensor], x: Tensor, gradient: bool) -> None:
    if not gradient:
        with torch.no_grad():
            function(x)
        return
    leaf = x.clone().requires_grad_()
    out = function(leaf.view_as(leaf))  # the counter of FLOPs hooks on what networks are given, and takes no leaves
    if out.requires_grad:
        torch.autograd.grad(out.sum(), leaf)


def _call(denoiser: Denoiser, x: Tensor, gradient: bool) -> None:
    _differentiated(lambda y: denoiser(y, 1), x, gradient)


def _graph_bytes(denoiser: Denoiser, x: Tensor) -> tuple[float, float]:
    """What a call's graph keeps, and the most that call and backward pass need at once."""
    peak = peak_bytes(lambda: _call(denoiser, x, True), x.device)
    kept: list[Tensor] = []

    def keep() -> None:
        kept.append(denoiser(x.clone().requires_grad_(), 1))

    return float(peak_bytes(keep, x.device)), float(peak)


def _call_flops(denoiser: Denoiser, x: Tensor, gradient: bool) -> float:
    """Of one row's call, on shapes alone where the network allows that, else really run."""
    try:
        tensors = {name: value.to("meta") for name, value in (*denoiser.named_parameters(), *denoiser.named_buffers())}
        with _flop_counter() as counter:
            _differentiated(
                lambda y: functional_call(denoiser, tensors, (y, 1)), torch.empty_like(x, device="meta"), gradient
            )
    except Exception:  # whatever a foreign network does with real numbers
        with _flop_counter() as counter:
            _call(denoiser, x, gradient)
    return float(counter.get_total_flops())


@contextmanager
def _counted(process: PurifiedClassifier, stand_in: bool) -> Iterator[Calls]:
    """Counts rows through the networks of a process; with a stand-in, the denoisers do next to nothing meanwhile."""
    found = Calls()

    def note(network: str, x: Any) -> None:
        gradient = torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad
        name = f"{network}_gradient" if gradient else network
        setattr(found, name, getattr(found, name) + len(x))

    def asked(denoiser: Denoiser) -> Callable[[Tensor, int], Tensor]:
        real = denoiser.forward

        def forward(x: Tensor, t: int) -> Tensor:
            note("denoiser", x)
            return 0.1 * x if stand_in else real(x, t)

        return forward

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            note("classifier", x)
            return function(x, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for denoiser in innermost(process.purifier):
            stack.enter_context(replaced(denoiser, "forward", asked(denoiser)))
        network = process.classifier.network
        # Also where timm's feature interface goes round its forward pass.
        for name in ("forward", "forward_intermediates"):
            if (function := getattr(network, name, None)) is not None:
                stack.enter_context(replaced(network, name, noted(function)))
        yield found


def _eager() -> Any:
    """While it is open, compiled networks run as they were written: no compiling for a shape that comes once."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _straight(process: PurifiedClassifier) -> Iterator[None]:
    """While it is open, nothing is recomputed: what is reserved for inputs that are kept would hide what is needed."""
    with ExitStack() as stack:
        for module in process.purifier.modules():
            if isinstance(module, Recomputed):
                stack.enter_context(replaced(module, "forward", module.denoiser.forward))
        yield
