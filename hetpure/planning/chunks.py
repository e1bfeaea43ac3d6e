"""``chunk_size: auto`` and ``attack.recompute: auto``: chosen by measuring memory, before a run begins.

Results are bit-identical at one chunk size, so a choice is made once: it goes into the run's saved config, where the
same command, on whatever machine and with however many processes, finds it again.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import RunError
from hetpure.evaluation.build import Loaded, Row, build_rows
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.protocols import draws_needed
from hetpure.evaluation.resolve import OnMissing, restore_auto_settings
from hetpure.planning.measure import INPUT_GRADIENT, Memory, Meter
from hetpure.planning.work import work_of

AUTO = "auto"

SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that a run may plan with: other programs come and go beside a CPU's."""

WASTE = 1.25
"""What a process needs over the bytes of its tensors alive, for allocators and kernels' scratch space."""

EQUAL = 1.05
"""Costs within this factor are the same, and the larger chunk is taken: fixed costs weigh less in it."""

MOST = 1024
"""Rows of a chunk, at most."""

GROUP = Path("/sys/fs/cgroup")
"""Where a container finds its limits."""

WAIT = 900.0
"""Seconds that further processes wait for the first one's choice."""


def choose_auto_settings(
    config: RunSettings,
    data: ImageDataModule,
    trainer: lightning.Trainer,
    loaded: Loaded,
    on_missing: OnMissing | None = None,
) -> RunSettings:
    """The settings with numbers where they say ``auto``.

    What the output folder's config has stays. Else a graph is kept where it fits at the smallest chunk that is about
    as fast a row as any. Of the powers of two that fit in memory for every row and were tried, the chunk is the one
    that makes the whole cheapest, padding included; of equals, the largest. Two are always tried, if two fit.

    Args:
        config: the settings.
        data: the images.
        trainer: says which process this is, and on which device.
        loaded: keeps the networks that were loaded for measuring.
        on_missing: see ``build_rows``.

    Raises:
        ConfigError: for networks or settings that cannot be.
        RunError: where the first process's choice does not come.
    """
    config = restore_auto_settings(config)
    if not config.is_open:
        return config
    if trainer.is_global_zero:
        return _choose(config, data, trainer, loaded, on_missing)
    start = time.monotonic()
    while config.is_open:
        if time.monotonic() - start > WAIT:
            raise RunError(f"chunk_size: no choice by the first process in {config.output} after {WAIT:.0f} s")
        time.sleep(0.5)
        config = restore_auto_settings(config)
    return config


def _choose(
    config: RunSettings,
    data: ImageDataModule,
    place: lightning.Trainer,
    loaded: Loaded,
    on_missing: OnMissing | None,
) -> RunSettings:
    device = place.strategy.root_device
    undecided = config.undecided
    draft = config.decide(1 if config.chunk_size == AUTO else None, dict.fromkeys(undecided, True))
    rows = build_rows(draft, data, on_missing, loaded)
    if not rows:
        return config
    undecided = [name for name in undecided if name in {row.name for row in rows}]
    examples = torch.stack([torch.as_tensor(item(data.test_source, k)["image"]) for k in data.indices[:8]])
    meter = Meter(examples.to(device), seconds=5.0)
    for row in rows:
        for process in (row.model, *row.processes):
            process.to(device)
    limit = free_bytes(device) * SHARE.get(device.type, 0.5) / _beside(place, device) / WASTE
    flat = {row.name: _memory(meter, row, True) for row in rows}
    kept = {row.name: _memory(meter, row, False) for row in rows if row.name in undecided}
    sizes = _sizes(rows, data) if config.chunk_size == AUTO else [int(config.chunk_size)]
    sizes = [size for size in sizes if all(m.at(size) <= limit for m in flat.values())] or sizes[:1]
    speeds = _speeds(meter, rows, sizes) if len(sizes) > 1 else {sizes[0]: 1.0}
    useful = min(size for size in speeds if speeds[size] <= EQUAL * min(speeds.values()))
    memory = dict(flat)
    for name in undecided:
        keeps = kept[name].at(useful) <= limit
        config = config.decide(recompute={name: not keeps})
        memory[name] = kept[name] if keeps else flat[name]
    if config.chunk_size == AUTO:
        fits = [size for size in speeds if all(m.at(size) <= limit for m in memory.values())] or sizes[:1]
        costs = {size: speeds[size] * _rows_through(rows, data, config.data.batch_size, size) for size in fits}
        config = config.decide(max(size for size in fits if costs[size] <= EQUAL * min(costs.values())))
    print(_said(config, memory, limit, undecided))
    return config


def _said(config: RunSettings, memory: dict[str, Memory], limit: float, undecided: Sequence[str]) -> str:
    size = int(config.chunk_size)
    largest = max(memory, key=lambda name: memory[name].at(size))
    text = (
        f"chunks of {size} rows; the largest gradient ({largest}) needs {memory[largest].at(size) / 1e9:.2f} GB of the "
        f"{limit / 1e9:.2f} GB that it may"
    )
    rows = config.rows
    for what, wanted in (("graph kept", False), ("recomputed", True)):
        names = [name for name in undecided if rows[name].attack["recompute"] is wanted]
        text += f"; {what}: {', '.join(names)}" if names else ""
    return text


def _memory(meter: Meter, row: Row, recomputed: bool) -> Memory:
    return meter.memory(row.processes[0], recomputed) if row.processes else meter.defense_memory(row.model)


def _sizes(rows: Sequence[Row], data: ImageDataModule) -> list[int]:
    """Powers of two up to what one request can fill."""
    batch = min(data.batch_size, len(data.indices))
    most = max(
        batch * max(draws_needed(row.protocols), row.gradient.eot if row.gradient is not None else 1) for row in rows
    )
    sizes = [1]
    while sizes[-1] < min(most, MOST):
        sizes.append(2 * sizes[-1])
    return sizes


def _speeds(meter: Meter, rows: Sequence[Row], sizes: Sequence[int]) -> dict[int, float]:
    """Seconds a row of a gradient through the network that does most, by chunk: of two, and of more in time."""
    heaviest = max(
        (row.processes[0] if row.processes else row.model for row in rows), key=lambda p: p.purifier.network_calls
    )
    speeds: dict[int, float] = {}
    last = 0.0
    start = time.monotonic()
    for size in sizes:
        if len(speeds) >= 2 and time.monotonic() - start + 3 * 2 * last * size >= meter.limit:
            break
        speeds[size] = last = meter.call_seconds(heaviest, size) / size
    return speeds


def _rows_through(rows: Sequence[Row], data: ImageDataModule, batch: int, size: int) -> float:
    """Rows through the networks at a chunk size, padding included; those with gradients count threefold."""
    total = 0.0
    for row in rows:
        for process in (row.model, *row.processes):
            process.chunk_size = size
        work = work_of(row, data.image_shape, [len(data.indices)], batch)
        for process, pieces in ((row.model, work.defense), *((p, work.attack) for p in row.processes)):
            for piece, count in pieces.items():
                calls = process.purifier.network_calls if piece.part == "purify" else 1
                total += count * piece.rows * calls * (INPUT_GRADIENT if piece.gradient else 1)
    return total


def _beside(place: lightning.Trainer, device: torch.device) -> int:
    """Processes that share this one's memory."""
    return 1 if device.type == "cuda" else max(1, place.world_size // max(place.num_nodes, 1))


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device; of a CPU's, what the system could hand out, a container's limit heeded.

    The page cache that the container's limit counts as used, and that makes way for others, is free.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2.0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        found = [1024.0 * int(lines["MemAvailable"].split()[0])]
    except (OSError, KeyError, ValueError):
        pass
    for most, now, stat, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            left = float(int((GROUP / most).read_text()) - int((GROUP / now).read_text()))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
        found.append(left + _entry(GROUP / stat, cached))
    return max(min(found), 0.0)


def _entry(stat: Path, name: str) -> int:
    """Of a control group's ``memory.stat``; 0 where it is not there."""
    try:
        return int(dict(line.split() for line in stat.read_text().splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0
