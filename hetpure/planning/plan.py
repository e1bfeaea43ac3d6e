"""What an evaluation will cost, said before it begins: ``evaluate.py --config X --plan``.

Counts are exact (see ``work``): the attack runs once against a defense that costs nothing, and what it asks is counted
to the chunk, padding included. Seconds are counts times what each kind of chunk took here; hours elsewhere are rows
through the networks over that machine's rates.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.evaluation.build import Row
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.resolve import resolve_rows
from hetpure.evaluation.run import evaluation_trainer, set_precision
from hetpure.planning.chunks import choose_auto_settings
from hetpure.planning.measure import Calls, Memory, Meter, Span
from hetpure.planning.work import Piece, Pieces, work_of

SECONDS = 20.0
"""That a plan measures by default."""

IDLE = 0.8
"""Share of its threads' time that a process has on an idle machine, at least: not all of it is parallel."""

RATE_RATIO = 2.0
"""A rate without gradients over that with, elsewhere, where only one is given: a pass forward, one back."""

Rate = tuple[float, float]
"""Rows a second through a network, without and with the gradient of its input."""


@dataclass(frozen=True)
class RowPlan:
    """What a row will cost.

    Attributes:
        name: of the row.
        images: that it has.
        done: of these, already.
        calls: rows through the networks for all images, at most.
        least: the same, if every sample broke as soon as the attack looks.
        flops: of ``calls``.
        memory: of one chunk of the attack's gradient (of the defense's, without an attack).
        chunk: rows of a chunk.
        seconds: for all images on this machine, at most; of the process that has most to do.
        left: for the images that are not done.
        least_left: likewise, if every sample broke at once.
        busy: of ``seconds``, those in which the process computes, all its threads together.
    """

    name: str
    images: int
    done: int
    calls: Calls
    least: Calls
    flops: float
    memory: Memory
    chunk: int
    seconds: float
    left: float
    least_left: float
    busy: float = 0.0


def plan(config: RunSettings, seconds: float = SECONDS, rates: Sequence[str] = ()) -> list[RowPlan]:
    """Prints what an evaluation will cost; runs and writes nothing.

    Args:
        config: complete.
        seconds: to measure for.
        rates: of the networks on another machine; see ``parse_rates``.

    Raises:
        ConfigError: as the evaluation would.
    """
    other = parse_rates(rates)
    if not 0.0 < seconds < math.inf:
        raise ConfigError(f"--plan-seconds {seconds:g}: accepted is a finite number above 0")
    config = replace(config, threads=config.threads or torch.get_num_threads())
    torch.set_num_threads(config.threads or 1)
    trainer = evaluation_trainer(to_dict(config.trainer))
    set_precision(config, trainer)
    resolved = resolve_rows(config, trainer, choose_auto=choose_auto_settings)
    config, data, rows = resolved.config, resolved.data, resolved.rows
    if trainer.is_global_zero:
        for name, reasons in resolved.absent.items():
            print(f"plan: {name} cannot be evaluated here: {'; '.join(reasons)}")
    if not rows:
        print("plan: no row can be evaluated here")
        return []
    found = plan_rows(config, rows, data, seconds, trainer.world_size, trainer.strategy.root_device)
    if trainer.is_global_zero:
        print_plan(found, config, other, trainer.world_size, trainer.strategy.root_device)
    return found


def plan_rows(
    config: RunSettings, rows: list[Row], data: ImageDataModule, seconds: float, world: int, device: torch.device
) -> list[RowPlan]:
    """The plan of built rows, and of their honesty checks as rows of their own.

    Args:
        config: complete.
        rows: built of it.
        data: the images.
        seconds: to measure for.
        world: processes that share the images.
        device: where this one computes.
    """
    planned = [(row.name, row, config.rows[row.name], data.indices) for row in rows]
    for row in rows:
        few = data.indices[: config.honesty.images]
        settings = config.rows[row.name]
        planned += [(f"{row.name}, {name}", variant, settings, few) for name, variant in row.variants.items()]
    examples = torch.stack([torch.as_tensor(item(data.test_source, k)["image"]) for k in data.indices[:8]]).to(device)
    meter = Meter(examples, seconds, grows=not config.compile)
    wanted: dict[Any, tuple[PurifiedClassifier, Piece, float]] = {}
    drafts = []
    for name, row, settings, indices in planned:
        for process in (row.model, *row.processes):
            process.to(device)
        done = len(row.store.done() & set(indices))
        sides = {}
        for part, count in (("all", len(indices)), ("left", len(indices) - done)):
            shares = [len(range(rank, count, world)) for rank in range(world)]
            whole = work_of(row, data.image_shape, shares, config.data.batch_size)
            longest = whole if world == 1 else work_of(row, data.image_shape, shares[:1], config.data.batch_size)
            sides[part] = whole, longest
        keys = _keys(row, to_dict(settings))
        for process, pieces in ((_process(row), sides["all"][0].attack), (row.model, sides["all"][0].defense)):
            for piece, count in pieces.items():
                key = keys[process is row.model, piece.gradient], piece
                old = wanted[key][2] if key in wanted else 0.0
                wanted[key] = process, piece, old + count
        drafts.append((name, row, keys, len(indices), done, sides))
    times = meter.spans(wanted)
    costs = {key: meter.calls(process, piece) for key, (process, piece, _) in wanted.items()}
    memories = {}
    for _, row, keys, *_ in drafts:
        if (key := _memory_key(row, keys)) not in memories:
            memories[key] = meter.memory(_process(row)) if row.processes else meter.defense_memory(row.model)
    plans = []
    for name, row, keys, images, done, sides in drafts:

        def total(pieces: Pieces, of_model: bool, keys: Any = keys) -> tuple[Span, Calls, float]:
            seconds, flops, calls = Span(), 0.0, Calls()
            for piece, count in pieces.items():
                key = keys[of_model, piece.gradient], piece
                each, flops_each = costs[key]
                seconds += times[key] * count
                flops += count * piece.rows * flops_each
                calls.add(each, count * piece.rows)
            return seconds, calls, flops

        whole, longest = sides["all"]
        here = total(longest.attack, False)[0] + total(longest.defense, True)[0]
        left = sides["left"][1]
        attack, defense = total(whole.attack, False), total(whole.defense, True)
        least = total(whole.least, False)
        calls, at_least = Calls(), Calls()
        for part in (attack, defense):
            calls.add(part[1])
        for part in (least, defense):
            at_least.add(part[1])
        plans.append(
            RowPlan(
                name,
                images,
                done,
                calls,
                at_least,
                attack[2] + defense[2],
                memories[_memory_key(row, keys)],
                row.model.chunk_size,
                here.clock,
                (total(left.attack, False)[0] + total(left.defense, True)[0]).clock,
                (total(left.least, False)[0] + total(left.defense, True)[0]).clock,
                here.busy,
            )
        )
    return plans


def parse_rates(texts: Sequence[str]) -> dict[str, Rate]:
    """``["denoiser=443,246", ..]``: rows a second of a network without and with gradients; half, where not said.

    Raises:
        ConfigError: for anything else.
    """
    rates = {}
    for text in texts:
        network, _, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            numbers = []
        if network not in ("denoiser", "classifier") or len(numbers) not in (1, 2) or not all(n > 0 for n in numbers):
            raise ConfigError(
                f"--plan-rate {text}: accepted are denoiser=RATE[,RATE] and classifier=RATE[,RATE]: images a second "
                "through one call, without and with the gradient of its input"
            )
        rates[network] = (numbers[0], numbers[-1] if len(numbers) == 2 else numbers[0] / RATE_RATIO)
    return rates


def hours_at(calls: Calls, rates: Mapping[str, Rate]) -> float | None:
    """Hours that rows through the networks take at given rates; a network without a rate counts as free."""
    if not rates:
        return None
    seconds = 0.0
    for network, (plain, gradient) in rates.items():
        seconds += getattr(calls, network) / plain + getattr(calls, f"{network}_gradient") / gradient
    return seconds / 3600


def print_plan(
    plans: list[RowPlan], config: RunSettings, rates: Mapping[str, Rate], world: int, device: torch.device
) -> None:
    """The plan in the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    title = f"plan: {len(plans)} rows, chunks of {config.chunk_size}, {config.threads} threads, {device.type}"
    title += f", {world} processes" if world > 1 else ""
    table = Table(title=title, title_justify="left")
    heads = ["row", "images", "denoiser calls an image", "classifier calls", "TFLOP an image", "memory of a chunk"]
    heads += ["hours here", "left"] + ["hours there"] * bool(rates)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for row in plans:
        table.add_row(*_cells(row, rates))
    if len(plans) > 1:
        hours = [sum(row.seconds for row in plans) / 3600, sum(row.left for row in plans) / 3600]
        there = [sum(hours_at(row.calls, rates) or 0.0 for row in plans) / world] * bool(rates)
        table.add_row("all", "", "", "", "", "", *map(_hours, [*hours, *there]), end_section=True)
    console.print(table)
    sizes = Table(title="memory of a gradient by chunk, GB", title_justify="left")
    chunk = int(config.chunk_size)
    candidates = sorted({max(1, chunk // 4), max(1, chunk // 2), chunk, 2 * chunk, 4 * chunk})
    for i, head in enumerate(["row", *map(str, candidates)]):
        sizes.add_column(head, justify="right" if i else "left")
    for row in plans:
        sizes.add_row(row.name, *(f"{row.memory.at(size) / 1e9:.2f}" for size in candidates))
    console.print(sizes)
    for note in _notes(plans, config, rates, world, device):
        console.print(f"note: {note}", markup=False, highlight=False)


def _cells(row: RowPlan, rates: Mapping[str, Rate]) -> list[str]:
    images = max(row.images, 1)
    c = row.calls
    there = hours_at(c, rates)
    most = "at most " if row.calls != row.least else ""
    return [
        row.name,
        f"{row.images}" + (f" ({row.done} done)" if row.done else ""),
        f"{c.denoiser / images:,.0f} + {c.denoiser_gradient / images:,.0f} with gradient",
        f"{c.classifier / images:,.0f} + {c.classifier_gradient / images:,.0f}",
        f"{row.flops / images / 1e12:.3g}",
        f"{row.memory.at(row.chunk) / 1e9:.2f} GB",
        most + _hours(row.seconds / 3600),
        _hours(row.left / 3600),
        *([] if there is None else [most + _hours(there)]),
    ]


def _hours(hours: float) -> str:
    if hours < 0.1:
        return f"{3600 * hours:.1f} s"
    return f"{hours:,.2f}" if hours < 10 else f"{hours:,.0f}"


def _notes(
    plans: list[RowPlan], config: RunSettings, rates: Mapping[str, Rate], world: int, device: torch.device
) -> list[str]:
    notes = [
        "calls count rows through the networks, padding of chunks included; a recomputed call is one without and one "
        "with gradient",
        "memory: bytes of tensors alive at once, from one and two rows; an allocator takes about a tenth more, and the "
        "networks come on top",
    ]
    early = [row for row in plans if row.calls != row.least]
    if early:
        shares = "; ".join(f"{row.name} {_hours(row.least_left / 3600)}" for row in early)
        notes.append(f"attacks that leave broken samples alone may stop early; if every sample broke at once: {shares}")
    clock, busy = sum(row.seconds for row in plans), sum(row.busy for row in plans) / (config.threads or 1)
    if device.type == "cpu" and busy < IDLE * clock:
        notes.append(
            f"other programs were running: this one had {100 * busy / clock:.0f} % of its {config.threads} threads' "
            f"time while it measured; undisturbed, all rows would take about {_hours(busy / 3600)}"
        )
    if world > 1:
        notes.append(f"hours are those of the process with most images of {world}; measured with one process alone")
    if rates:
        missing = [name for name in ("denoiser", "classifier") if name not in rates]
        free = f"; the {missing[0]} counts as free" if missing else ""
        notes.append(f"hours there are the networks' alone, on one device{free}")
    return notes


def _process(row: Row) -> PurifiedClassifier:
    return row.processes[0] if row.processes else row.model


def _memory_key(row: Row, keys: dict[tuple[bool, bool], str]) -> tuple[bool, str]:
    return bool(row.processes), keys[not row.processes, True]


def _keys(row: Row, settings: dict[str, Any]) -> dict[tuple[bool, bool], str]:
    """What a process's pieces are the same as, by (is the defense, with gradient): rows share what they measured."""
    networks = {key: settings[key] for key in ("classifier", "denoiser", "purifier")}
    changes = {key: row.settings.get(key) for key in ("process", "gradient", "recompute")}
    own = changes["process"] or (changes["gradient"] or {}).get("name") in ("mask_aware", "blind")
    defense = json.dumps(networks, sort_keys=True, default=str)
    attack = json.dumps([networks, changes], sort_keys=True, default=str)
    return {
        (True, False): defense, (True, True): defense, (False, False): attack if own else defense, (False, True): attack
    }  # fmt: skip
