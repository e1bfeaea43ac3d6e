"""``chunk_size: auto`` and ``attack.recompute: auto``: chosen by measuring memory and speed before a run begins.

Results are bit-identical only at one chunk size. So the choice is made once and saved in the run's config, where the
same command finds it again, on any machine and with any number of processes.
"""

import math
import re
import time
from bisect import bisect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from lightning import Trainer

from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.protocols import draws_needed
from hetpure.errors import RunError
from hetpure.evaluation.build import Loaded, Row, build_rows
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.resolve import OnMissing, restore_auto_settings
from hetpure.models.denoisers import Recomputed
from hetpure.planning.counting import Piece, count_pieces
from hetpure.planning.measure import Meter

MEMORY_SHARE = {"cpu": 0.4, "cuda": 0.64}
"""Share of the free memory that a chunk's tensors may take. Of 80 % (a CPU's: 50 %, other programs come and go) it
leaves a fifth to allocators and to the scratch space of kernels."""

EQUAL_COST = 1.05
"""Costs within this factor count as the same."""

LARGEST_CHUNK = 1024

SECONDS = 5.0
"""Time that the speeds of chunks are measured for."""

WAIT = 900.0
"""Seconds that further processes wait for the choice of the first."""

CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Where a container finds its limit, its usage, and the page cache in that usage: control groups, version 2 and 1."""


def choose_auto_settings(
    config: RunSettings, data: ImageDataModule, trainer: Trainer, loaded: Loaded, on_missing: OnMissing | None = None
) -> RunSettings:
    """The settings with a value wherever they say ``auto``; what the output folder's config has chosen stays.

    As many of a gradient's last calls keep their graph as fit in memory with the smallest chunk that is about as fast
    as any; the others are recomputed. The chunk is, of the powers of two that fit for every row and were timed, the one
    that makes the row with most network calls fastest, padding included; of equals, the largest. Two are always timed,
    if two fit. Only the first process chooses; in the others a RunError says that it made no choice in time.
    """
    config, deadline = restore_auto_settings(config), time.monotonic() + WAIT
    while config.is_open and not trainer.is_global_zero:
        if time.monotonic() > deadline:
            raise RunError(f"chunk_size: no choice by the first process in {config.output} after {WAIT:.0f} s")
        time.sleep(0.5)
        config = restore_auto_settings(config)
    if not config.is_open:
        return config
    auto, device = config.chunk_size == "auto", trainer.strategy.root_device
    meter = Meter(data, device, SECONDS)
    draft = config.decide(1 if auto else None, dict.fromkeys(config.undecided, True))
    rows = build_rows(draft, data, on_missing, loaded)
    if not rows:
        return config
    for process in (process for row in rows for process in (row.model, *row.processes)):
        process.to(device)
    pieces = {row.name: count_pieces(row, data.image_shape, 1, 1).most for row in rows}
    memory = {name: meter.memory(of_row) for name, of_row in pieces.items()}
    beside = 1 if device.type == "cuda" else max(1, trainer.world_size // max(trainer.num_nodes, 1))
    limit = free_bytes(device) * MEMORY_SHARE.get(device.type, 0.4) / beside

    def fits(size: int) -> bool:
        return all(bytes_of(size) <= limit for bytes_of in memory.values())

    seconds: dict[int, float] = {}
    start = last = time.monotonic()
    for size in _sizes(rows, data) if auto else [int(config.chunk_size)]:
        now, last_took = time.monotonic(), time.monotonic() - last
        if (seconds and not fits(size)) or (len(seconds) >= 2 and now - start + 2 * last_took > SECONDS):
            break
        last, seconds[size] = now, _seconds(meter, rows, data, size) if auto else 1.0
    recompute, smallest = dict[str, bool | float](), min(_fastest(seconds))
    for name in (name for name in config.undecided if name in pieces):
        recompute[name], memory[name] = _least_recomputed(meter, pieces[name], smallest, limit)
    size = max(_fastest({size: seconds[size] for size in filter(fits, seconds)} or {min(seconds): 0.0}))
    largest = max(memory, key=lambda name: memory[name](size))
    text = f"chunks of {size} rows; the largest gradient ({largest}) needs {memory[largest](size) / 1e9:.2f} GB of the "
    text += f"{limit / 1e9:.2f} GB that it may use"
    print(text, *(f"{name}: {_in_words(value)}" for name, value in recompute.items()), sep="; ")
    return config.decide(size if auto else None, recompute)


def _least_recomputed(
    meter: Meter, pieces: Collection[Piece], rows: int, limit: float
) -> tuple[bool | float, Callable[[int], float]]:
    """The ``attack.recompute`` that recomputes least of what fits in memory, and its memory by the rows of a chunk."""
    modules = [module for piece in pieces for module in piece.process.purifier.modules()]
    recomputed = [module for module in modules if isinstance(module, Recomputed)]

    def memory(from_t: float) -> Callable[[int], float]:
        for denoiser in recomputed:
            denoiser.from_t = from_t
        return meter.memory(pieces)

    if not recomputed:
        return False, memory(1.0)
    choices = [t / recomputed[0].schedule.T for t in meter.timesteps(pieces)[1:]] + [1.0]
    fit = bisect(choices, limit, key=lambda from_t: memory(from_t)(rows))
    from_t = choices[fit - 1] if fit else 0.0
    return {0.0: True, 1.0: False}.get(from_t, from_t), memory(from_t)


def _in_words(recompute: bool | float) -> str:
    if isinstance(recompute, bool):
        return "recomputed" if recompute else "graph kept"
    return f"recomputed from t = {recompute:g} on, graph kept below"


def _fastest(seconds: Mapping[int, float]) -> list[int]:
    """The sizes that are as fast as any, up to noise."""
    return [size for size in seconds if seconds[size] <= EQUAL_COST * min(seconds.values())]


def _sizes(rows: Sequence[Row], data: ImageDataModule) -> list[int]:
    """Powers of two up to the first that holds all rows of any one request."""
    draws = max(max(draws_needed(row.protocols), row.gradient.eot if row.gradient else 1) for row in rows)
    most = min(LARGEST_CHUNK, draws * min(data.batch_size, len(data.indices)))
    return [2**power for power in range(1 + math.ceil(math.log2(most)))]


def _seconds(meter: Meter, rows: Sequence[Row], data: ImageDataModule, size: int) -> float:
    """Seconds of the row with most network calls, in chunks of a size."""
    row = max(rows, key=lambda row: (*row.processes, row.model)[0].network_calls)
    for process in (row.model, *row.processes):
        process.chunk_size = size
    pieces = count_pieces(row, data.image_shape, len(data.indices), data.batch_size).most
    return sum(meter.estimated_time(piece) * count for piece, count in pieces.items())


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device; of a CPU's, what the system could hand out within a container's limit."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = 1024.0 * (_number(Path("/proc/meminfo"), "MemAvailable:") or 0)
    for limit_file, usage_file, stat_file, cache in CGROUP_FILES:
        limit, usage = _number(CGROUP / limit_file), _number(CGROUP / usage_file)
        if limit is not None and usage is not None:
            # The page cache counts as used, and makes way for others.
            free = min(free, float(limit - usage + (_number(CGROUP / stat_file, cache) or 0)))
    return max(free, 0.0)


def _number(file: Path, name: str = "") -> int | None:
    """The number behind a name at the start of a line; None where there is none."""
    match = re.search(rf"^{name}\s*(\d+)", file.read_text(), re.MULTILINE) if file.is_file() else None
    return int(match[1]) if match else None
