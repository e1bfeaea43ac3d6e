"""What an evaluation will cost, estimated before it begins: ``hetpure plan`` and ``evaluate.py --plan``.

Counts are exact (see ``counting``). Hours here are the counts times the measured time of each kind of chunk; hours
elsewhere are the rows through the networks over the rates of that machine.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.errors import require
from hetpure.evaluation.build import Row
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.resolve import resolve_rows
from hetpure.evaluation.run import evaluation_trainer, set_precision
from hetpure.planning.auto_settings import choose_auto_settings
from hetpure.planning.counting import Piece, count_pieces
from hetpure.planning.measure import Cost, Meter

PADDING = 0.05
"""Share of padding from which on a plan says what avoids it."""


@dataclass(frozen=True)
class RowPlan:
    """What a row will cost; with several processes, the one that has most of its images."""

    name: str
    images: int
    done: int  # how many images, of all processes, have a record already
    left: float  # share of this process's images that are not done
    chunk_size: int
    memory: Callable[[int], float]  # bytes by the rows of a chunk; see ``Meter.memory``
    most: Cost
    least: Cost  # if every sample broke as soon as the attack looks
    padding: float  # share of the network calls that only fill up chunks
    full_batch: int  # images in the smallest batch that needs none


def plan(config: RunSettings, seconds: float = 20.0, rates: Sequence[str] = ()) -> list[RowPlan]:
    """Prints what an evaluation will cost, here and at other hardware's rates (``parse_rates``); writes nothing."""
    other = parse_rates(rates)
    require(0.0 < seconds < math.inf, "--plan-seconds", seconds, "a finite number above 0")
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    trainer = evaluation_trainer(to_dict(config.trainer))
    set_precision(config, trainer)
    resolved = resolve_rows(replace(config, threads=threads), trainer, choose_auto=choose_auto_settings)
    world, device = trainer.world_size, trainer.strategy.root_device
    plans = plan_rows(resolved.config, resolved.rows, resolved.data, seconds, world, device) if resolved.rows else []
    if trainer.is_global_zero:
        for name, reasons in resolved.absent.items():
            print(f"plan: {name} cannot be evaluated here: {'; '.join(reasons)}")
        if plans:
            print_plan(plans, other, world, f"{threads} threads, {device.type}", resolved.config.data.batch_size)
        else:
            print("plan: no row can be evaluated here")
    return plans


def plan_rows(
    config: RunSettings, rows: Sequence[Row], data: ImageDataModule, seconds: float, world: int, device: torch.device
) -> list[RowPlan]:
    """The plan of built rows, and of their honesty checks as rows of their own, for ``world`` processes."""
    planned, few = [(row.name, row, data.indices) for row in rows], data.indices[: config.honesty.images]
    planned += [(f"{row.name}, {name}", variant, few) for row in rows for name, variant in row.variants.items()]
    counts, wanted = [], Counter[Piece]()
    for _, row, indices in planned:
        for process in (row.model, *row.processes):
            process.to(device)
        images = math.ceil(len(indices) / world)
        counts.append(count_pieces(row, data.image_shape, images, config.data.batch_size))
        wanted |= counts[-1].most | counts[-1].least
    meter = Meter(data, device, seconds, config.compile)
    costs = meter.costs(wanted)
    plans = []
    for (name, row, indices), of_row in zip(planned, counts, strict=True):
        images, done = math.ceil(len(indices) / world), len(row.store.done() & set(indices))
        left, memory = math.ceil((len(indices) - done) / world) / images, meter.memory(of_row.most)
        most, least = (_total(costs, pieces) for pieces in (of_row.most, of_row.least))
        real = _total(costs, {piece: rows / piece.rows for piece, rows in of_row.real.items()})
        padding = 1.0 - _calls(real) / max(_calls(most), 1.0)
        size = row.model.chunk_size
        plans.append(RowPlan(name, images, done, left, size, memory, most, least, padding, of_row.full_batch))
    return plans


def _total(costs: Mapping[Piece, Cost], counts: Mapping[Piece, float]) -> Cost:
    return sum((costs[piece] * count for piece, count in counts.items()), Cost())


def _calls(cost: Cost) -> float:
    """Rows through the denoiser, or where there is none through the classifier."""
    return cost.denoiser + cost.denoiser_gradient or cost.classifier + cost.classifier_gradient


def parse_rates(texts: Sequence[str]) -> dict[str, float]:
    """``["denoiser=443,246", ..]``, rows a second of a network without and with gradients, by the names of ``Cost``.

    A rate with gradients that is not given is half of the other: a forward and a backward pass. Otherwise ConfigError.
    """
    accepted = "denoiser=RATE[,RATE], classifier=RATE[,RATE]: images a second through one call, without and with the "
    rates: dict[str, float] = {}
    for text in texts:
        network, _, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            numbers = []
        valid = (
            network in ("denoiser", "classifier")
            and len(numbers) in (1, 2)
            and all(0.0 < rate < math.inf for rate in numbers)
        )
        require(valid, "--plan-rate", text, f"{accepted}gradient of its input")
        rates |= {network: numbers[0], f"{network}_gradient": (*numbers, numbers[0] / 2)[1]}
    return rates


def hours_at(cost: Cost, rates: Mapping[str, float]) -> float:
    """Hours that rows through the networks take at given rates; a network without a rate counts as free."""
    return sum(getattr(cost, name) / rate for name, rate in rates.items()) / 3600


def print_plan(plans: Sequence[RowPlan], rates: Mapping[str, float], world: int, machine: str, batch_size: int) -> None:
    """Prints a plan as a table with notes."""
    console = Console(width=None if Console().is_terminal else 160)
    title = f"plan: {len(plans)} rows, chunks of {plans[0].chunk_size}, {machine}, processes: {world}"
    table = Table(title=title, title_justify="left")
    table.add_column("row", min_width=min(max(len(row.name) for row in plans), 40))  # headings wrap first
    counts = ("images", "denoiser calls an image", "classifier calls", "padding", "TFLOP an image")
    counts += ("GB a chunk, twice as large",)
    for head in (*counts, "hours here", "left", *["hours there"] * bool(rates)):
        table.add_column(head, justify="right")
    sums = [0.0] * (2 + bool(rates))
    for row in plans:
        each, here = row.most * (1 / row.images), row.most.seconds / 3600
        hours = [here, row.left * here, world * hours_at(row.most, rates)][: len(sums)]
        sums = [total + part for total, part in zip(sums, hours, strict=True)]
        table.add_row(
            row.name,
            f"{row.images}" + (f" ({row.done} done)" if row.done else ""),
            f"{each.denoiser:,.0f} + {each.denoiser_gradient:,.0f}",
            f"{each.classifier:,.0f} + {each.classifier_gradient:,.0f}",
            f"{100 * row.padding:.0f} %",
            f"{each.flops / 1e12:.3g}",
            f"{row.memory(row.chunk_size) / 1e9:.2f}, {row.memory(2 * row.chunk_size) / 1e9:.2f}",
            *[f"{'at most ' if row.most != row.least else ''}{_hours(value)}" for value in hours],
        )
    table.add_section()
    table.add_row("all", *[""] * len(counts), *map(_hours, sums))
    console.print(table)
    for note in _notes(plans, rates, world, batch_size):
        console.print(f"note: {note}", markup=False, highlight=False)


def _notes(plans: Sequence[RowPlan], rates: Mapping[str, float], world: int, batch_size: int) -> Iterator[str]:
    calls = "calls are rows through the networks, with padding, without and with gradient"
    yield f"{calls}; a recomputed call is one of each"
    padded = [
        row for row in plans if row.padding >= PADDING and batch_size % row.full_batch and row.full_batch <= row.images
    ]
    if padded:
        sizes = "; ".join(f"{row.name} {row.full_batch}" for row in padded)
        yield f"chunks are full with data.batch_size, now {batch_size}, a multiple of: {sizes}"
    yield "memory is that of tensors alive at once; allocators take about a tenth more, and the networks come on top"
    early = [row for row in plans if row.most != row.least]
    if least := [f"{row.name} {_hours(row.left * row.least.seconds / 3600)}" for row in early]:
        reason = "some attacks and the check of certificates leave broken samples alone"
        yield f"{reason}; left if every sample broke at once: {'; '.join(least)}"
    if world > 1:
        yield f"images and hours here are those of the process with most images of {world}; one alone was measured"
    if rates:
        free = "".join(f"; the {name} counts as free" for name in ("denoiser", "classifier") if name not in rates)
        yield f"hours there are those of the networks alone, on one device{free}"


def _hours(hours: float) -> str:
    if hours < 0.1:
        return f"{3600 * hours:.1f} s"
    return f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"
