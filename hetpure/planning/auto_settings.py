"""``chunk_size: auto`` and ``attack.recompute: auto``: chosen by measuring memory and speed before a run begins.

Results are bit-identical only at one chunk size. So the choice is made once and saved in the run's config, where the
same command finds it again, on any machine and with any number of processes.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning
import torch

from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.protocols import draws_needed
from hetpure.errors import RunError
from hetpure.evaluation.build import Loaded, Row, build_rows
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.resolve import OnMissing, restore_auto_settings
from hetpure.planning.counting import count_pieces
from hetpure.planning.measure import Meter

AUTO = "auto"

MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that a run may use: other programs come and go beside a CPU's."""

MEMORY_OVERHEAD = 1.25
"""What a process needs over the bytes of its tensors, for allocators and kernels' scratch space."""

EQUAL_COST = 1.05
"""Costs within this factor count as the same."""

LARGEST_CHUNK = 1024

CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Where a container finds its limit, its usage, and the page cache in that usage: control groups, version 2 and 1."""

WAIT = 900.0
"""Seconds that further processes wait for the choice of the first."""


def choose_auto_settings(
    config: RunSettings,
    data: ImageDataModule,
    trainer: lightning.Trainer,
    loaded: Loaded,
    on_missing: OnMissing | None = None,
) -> RunSettings:
    """The settings with a value wherever they say ``auto``; what the output folder's config has chosen stays.

    A graph is kept where it fits in memory at the smallest chunk with which the run is about as fast as with any. The
    chunk is the one, of the powers of two that fit for every row and were timed, that makes the whole run cheapest,
    padding included; of equals, the largest. Two are always timed, if two fit.

    Args:
        config: the settings.
        data: the images.
        trainer: says which process this is, and on which device. Only the first chooses; others wait for its choice.
        loaded: keeps the networks that were loaded for measuring.
        on_missing: see ``build_rows``.

    Raises:
        ConfigError: for networks or settings that cannot be.
        RunError: if the first process makes no choice in time.
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
    trainer: lightning.Trainer,
    loaded: Loaded,
    on_missing: OnMissing | None,
) -> RunSettings:
    auto, device, undecided = config.chunk_size == AUTO, trainer.strategy.root_device, config.undecided
    rows = build_rows(config.decide(1 if auto else None, dict.fromkeys(undecided, True)), data, on_missing, loaded)
    if not rows:
        return config
    meter = Meter(data, device, seconds=5.0)
    for row in rows:
        for process in (row.model, *row.processes):
            process.to(device)
    beside = 1 if device.type == "cuda" else max(1, trainer.world_size // max(trainer.num_nodes, 1))
    limit = free_bytes(device) * MEMORY_SHARE.get(device.type, 0.5) / MEMORY_OVERHEAD / beside

    def fitting(sizes: Sequence[int], memories: Mapping[str, Callable[[int], float]]) -> list[int]:
        return [size for size in sizes if all(memory(size) <= limit for memory in memories.values())] or [sizes[0]]

    memories = {row.name: meter.memory(row) for row in rows}
    kept = {row.name: meter.memory(row, recomputed=False) for row in rows if row.name in undecided}
    sizes = fitting(_sizes(rows, data) if auto else [int(config.chunk_size)], memories)
    seconds = _seconds_by_size(meter, rows, data, sizes) if len(sizes) > 1 else {sizes[0]: 1.0}
    useful = min(size for size in seconds if seconds[size] <= EQUAL_COST * min(seconds.values()))
    recompute = {name: memory(useful) > limit for name, memory in kept.items()}
    memories |= {name: kept[name] for name, value in recompute.items() if not value}
    seconds = {size: seconds[size] for size in fitting([*seconds], memories)}
    size = max(size for size in seconds if seconds[size] <= EQUAL_COST * min(seconds.values()))
    largest = max(memories, key=lambda name: memories[name](size))
    text = f"chunks of {size} rows; the largest gradient ({largest}) needs {memories[largest](size) / 1e9:.2f} GB"
    text += f" of the {limit / 1e9:.2f} GB that it may use"
    for outcome, value in (("graph kept", False), ("recomputed", True)):
        names = [name for name in recompute if recompute[name] is value]
        text += f"; {outcome}: {', '.join(names)}" if names else ""
    print(text)
    return config.decide(size if auto else None, recompute)


def _sizes(rows: Sequence[Row], data: ImageDataModule) -> list[int]:
    """Powers of two up to the first that holds all rows of any one request."""
    draws = max(max(draws_needed(row.protocols), row.gradient.eot if row.gradient else 1) for row in rows)
    most = min(LARGEST_CHUNK, draws * min(data.batch_size, len(data.indices)))
    return [2**power for power in range(1 + math.ceil(math.log2(most)))]


def _seconds_by_size(
    meter: Meter, rows: Sequence[Row], data: ImageDataModule, sizes: Sequence[int]
) -> dict[int, float]:
    """Seconds for the row with most network calls, by chunk size: of the two smallest, of more while there is time."""
    row = max(rows, key=lambda row: (*row.processes, row.model)[0].purifier.network_calls)
    seconds: dict[int, float] = {}
    start = last = time.monotonic()
    for size in sizes:
        if len(seconds) >= 2 and time.monotonic() - start + 2 * (time.monotonic() - last) > meter.seconds:
            break
        last = time.monotonic()
        for process in (row.model, *row.processes):
            process.chunk_size = size
        pieces, _ = count_pieces(row, data.image_shape, len(data.indices), data.batch_size)
        seconds[size] = sum(meter.estimated_time(piece).seconds * count for piece, count in pieces.items())
    return seconds


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device; of a CPU's, what the system could hand out within a container's limit."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    available = _number(Path("/proc/meminfo"), "MemAvailable:")
    free = 1024.0 * available if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2.0
    for limit_file, usage_file, stat_file, cache in CGROUP_FILES:
        limit, usage = _number(CGROUP / limit_file), _number(CGROUP / usage_file)
        if limit is not None and usage is not None:
            # The page cache counts as used, and makes way for others.
            free = min(free, float(limit - usage + (_number(CGROUP / stat_file, cache) or 0)))
    return max(free, 0.0)


def _number(file: Path, name: str = "") -> int | None:
    """The number behind a name at the start of a line; None where there is none."""
    try:
        match = re.search(rf"^{name}\s*(\d+)", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None
