"""Seconds and memory of everything that reads or writes records, by their number; the networks cost nothing.

    python benchmarks/scale.py --records 1000,10000,100000

Makes run folders of so many records in a temporary folder, with the writers that an evaluation has, and does with them
what an evaluation's start, its reports and a verification do, each in a process of its own. Printed are processor
seconds, megabytes at the most (100 are imports), and how often the seconds of the column before.

--classes 1000 --iterations 20 are records as of ImageNet, --classes 10 --iterations 200 as of CIFAR-10.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hetpure.evaluation.sample_queue import SampleQueue
from hetpure.reports.aggregate import aggregate
from hetpure.reports.leaderboard.site import leaderboard
from hetpure.reports.write import write_reports
from hetpure.runs.claim import claim
from hetpure.runs.images import Samples, save_samples
from hetpure.runs.mend import mend
from hetpure.runs.read import read_run
from hetpure.runs.records import Expected, Record, shortest
from hetpure.runs.results import Conditions, Report, table_rows, write_results
from hetpure.runs.store import RecordStore
from hetpure.runs.verification import fingerprint
from hetpure.verification.lines import check_lines, parts_of
from hetpure.verification.table import check_table, check_table_files

ROW, PROTOCOL, HASH, BATCH = "uniform", "one-shot", "0123456789abcdef", 64
SHAPE = (3, 8, 8)

Cost = tuple[float, float]
"""Processor seconds, and megabytes at the most."""


def config(folder: Path, seed: int) -> dict[str, Any]:
    """The config of a run folder, as far as readers need it."""
    attack = {"name": "pgd", "norm": "Linf", "eps": 8 / 255}
    return {"output": str(folder), "seed": seed, "chunk_size": BATCH, "purifier": {"name": ROW}, "attack": attack}


def records(indices: Sequence[int], classes: int, iterations: int, image: str | None, seed: int) -> list[Record]:
    """Records of a batch, with scores and curves of the lengths that they have in a run."""
    draw = np.random.default_rng((seed, indices[0]))
    scores = [shortest(draw.normal(size=(len(indices), 1, classes))) for _ in range(2)]
    curves = draw.random((len(indices), 3, iterations)).tolist()
    return [
        Record(
            index, PROTOCOL, index % classes, [clean[0].index(max(clean[0]))], clean,
            [attacked[0].index(max(attacked[0]))], attacked, curve[0], curve[1], curve[2], 0.25, seed, 1,
            {"defense": BATCH, "attack": BATCH}, image, settings=HASH,
        )
        for index, clean, attacked, curve in zip(indices, *scores, curves, strict=True)
    ]  # fmt: skip


def append(store: RecordStore, indices: Sequence[int], classes: int, iterations: int, seed: int = 0) -> None:
    """A batch, as the evaluation writes it."""
    draw = np.random.default_rng((seed, indices[0], 1))
    images = {index: draw.integers(0, 256, SHAPE).astype(np.float32) / 255 for index in indices}
    store.append(records(indices, classes, iterations, store.image_name(images), seed), images)


def batches(count: int) -> list[range]:
    """The samples, by batch."""
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def make(folder: Path, count: int, classes: int, iterations: int, processes: int, seed: int = 0) -> None:
    """A finished run of ``count`` records in the files of so many processes."""
    claim(folder, config(folder, seed), content={"data": {"images": HASH}}, made_under={ROW: HASH})
    save_samples(Samples(range(count), [str(k) for k in range(classes)], {}), folder / "samples.npz")
    store = RecordStore(folder / ROW)
    for number, indices in enumerate(batches(count)):
        append(store.for_process(number % processes), indices, classes, iterations, seed)
    rows = table_rows(ROW, store.outcomes(), count, [PROTOCOL], Conditions("PGD Linf", "exact", 1, 1, 2, 2, "Linf"))
    write_results(Report("a run of no networks", rows), folder)


def resume(folder: Path, count: int, classes: int, processes: int) -> None:
    """What one of several processes does before its first batch."""
    claim(folder, config(folder, 0), content={"data": {"images": HASH}}, made_under={ROW: HASH})
    labels = {index: index % classes for index in range(count)}
    expected = Expected(labels.keys(), labels, classes, {PROTOCOL: 1}, SHAPE, 0, [HASH])
    store = RecordStore(folder / ROW, rank=1, expected=expected)
    mend(store, processes)
    assert place(store, count, processes, 1).left() == 0


def place(store: RecordStore, count: int, processes: int, rank: int) -> SampleQueue:
    """A process's view of the samples."""
    trainer: Any = SimpleNamespace(
        world_size=processes, num_nodes=1, node_rank=0, local_rank=rank, is_global_zero=rank == 0
    )
    return SampleQueue(store, range(count), trainer)


def take_all(folder: Path, count: int, processes: int, rank: int) -> None:
    """One of several processes that share samples by locks, with networks and images that cost nothing."""
    store = RecordStore(folder / "queue", rank=rank)
    queue = place(store, count, processes, rank)
    while samples := queue.take(BATCH):
        for batch in batches(len(samples)):
            store.append(records([samples[k] for k in batch], 10, 20, None, 0))
    queue.release()


def verify(folder: Path) -> None:
    """The checks of ``hetpure verify`` that need no network."""
    settings = {ROW: {**read_run(folder).methods[0].settings}}
    assert all(check_lines(part)[0].passed for part in parts_of(folder, settings))
    assert check_table(folder).passed and check_table_files(folder).passed is not False
    fingerprint(folder)


def measure(*works: Callable[[], Any]) -> Cost:
    """Processor seconds of all works, each in a process of its own at the same time, and megabytes of the largest."""
    children = []
    for work in works:
        if not (child := os.fork()):
            code = 1
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    work()
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    ended = [os.wait4(child, 0) for child in children]
    assert not any(status for _, status, _ in ended), "a part failed"
    return sum(u.ru_utime + u.ru_stime for *_, u in ended), max(u.ru_maxrss for *_, u in ended) / 1000


def measure_all(folder: Path, count: int, classes: int, iterations: int, processes: int) -> dict[str, Cost]:
    """The cost of each part."""
    run, other = folder / "run", folder / "other"
    make(other, BATCH, classes, iterations, 1, seed=1)
    parts: dict[str, list[Callable[[], Any]]] = {
        "writing": [lambda: make(run, count, classes, iterations, processes)],
        f"sharing, {processes} processes": [
            lambda rank=rank: take_all(folder, count, processes, rank) for rank in range(processes)
        ],
        f"resume, one of {processes}": [lambda: resume(run, count, classes, processes)],
        "tables and page": [lambda: write_reports(run)],
        "verify, without networks": [lambda: verify(run)],
        "aggregate": [lambda: aggregate([run, other])],
        "leaderboard": [lambda: leaderboard([run], folder / "site")],
    }
    costs = {}
    for name, works in parts.items():
        seconds, megabytes = costs[name] = measure(*works)
        print(f"{count:,} records, {name}: {seconds:.2f} s, {megabytes:.0f} MB", file=sys.stderr, flush=True)
    return costs


def main() -> None:
    """Prints a line for each part, with three columns for each number of records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="1000,10000,100000", help="numbers of records (%(default)s)")
    parser.add_argument("--classes", type=int, default=10, help="scores in an evaluation (%(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="of the attack (%(default)s)")
    parser.add_argument("--processes", type=int, default=8, help="that share the samples (%(default)s)")
    options = parser.parse_args()
    counts = sorted(map(int, options.records.split(",")))
    found: list[dict[str, Cost]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            found.append(measure_all(Path(name), count, options.classes, options.iterations, options.processes))
    print("| part |" + "".join(f" {count:,} records: s | MB | times |" for count in counts))
    print("| --- |" + " ---: | ---: | ---: |" * len(counts))
    for part in found[0]:
        cells, before = [], None
        for seconds, megabytes in (costs[part] for costs in found):
            times = "" if before is None else f"{seconds / before:.1f}"
            cells += [f"{seconds:.2f}", f"{megabytes:.0f}", times]
            before = seconds
        print(f"| {part} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
