"""Figure 8: time and memory of one purification with its gradient, against the resampling length U.

Each setting is measured in a process of its own: a peak of memory is a process's, and stays.
"""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from hetpure.attacks.gradients import ExactGradient
from hetpure.config import to_dict
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError, RunError
from hetpure.models.classifiers import build_classifier
from hetpure.models.denoisers import Recomputed, build_denoiser
from hetpure.purification.registry import build_purifier
from hetpure.reports.plots import style
from hetpure.studies.finished import FinishedRun
from hetpure.studies.numbers import Measured

STATUS = Path("/proc/self/status")
PAPER = {"single": (7, 3.4), "repaint": (64, 27.4)}
"""The paper's figure 8: seconds and GB at 10 sampling steps and U = 20, one CIFAR-10 image, a GPU."""


def gradient_cost(job: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak memory (MB, above what the networks themselves need) of an exact gradient; in a fresh process.

    Args:
        job: ``classifier``, ``denoiser`` and ``purifier`` sections, ``image`` (C, H, W) as nested lists, ``classes``,
            ``recompute``, ``rounds``, ``threads``, ``device``.
    """
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    classifier, denoiser = build_classifier(**job["classifier"]), build_denoiser(**job["denoiser"])
    purifier = build_purifier(job["purifier"], classifier, Recomputed(denoiser) if job["recompute"] else denoiser)
    model = PurifiedClassifier(classifier, purifier, job["classes"], ensemble_size=1, chunk_size=1).to(device)
    source = ExactGradient(model, eot=1, seed=0)
    x = torch.tensor(job["image"], device=device)[None]
    sample = torch.zeros(1, dtype=torch.long, device=device)
    # What libraries take at their first use belongs to no setting.
    leaf = (2.0 * x - 1.0).requires_grad_()
    torch.autograd.grad(classifier((denoiser(leaf, 0) + 1.0) / 2.0).sum(), leaf)
    del leaf
    gc.collect()
    before = _memory(device, "VmRSS")
    source(x, sample, sample, 0)
    memory = _memory(device, "VmHWM") - before
    seconds = []
    for iteration in range(job["rounds"]):
        start = time.perf_counter()
        source(x, sample, sample, iteration)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {
        "calls": purifier.network_calls,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "memory_mb": memory,
    }


def measure(run: FinishedRun, rows: Sequence[str], U: tuple[int, ...] = (1, 2, 5, 10, 20), rounds: int = 5) -> Measured:
    """Measures ``single`` and ``repaint`` at each U, the graph kept (as the paper does) and recomputed.

    Args:
        run: the run.
        rows: one row with a heterogeneous purifier, or none for the first.
        U: resampling lengths.
        rounds: timed gradients of each, of which the median counts.

    Raises:
        RunError: where the machine does not say a process's peak memory.
    """
    if not U or min(U) < 1 or rounds < 1:
        raise ConfigError("U, rounds: accepted are numbers above 0")
    if run.device.type != "cuda" and not STATUS.is_file():
        raise RunError("peak memory is read from Linux's /proc or from CUDA, and this machine has neither")
    name = run.heterogeneous(rows)
    (row,) = run.build([name])  # refuses other weights than the run's
    plain = to_dict(run.rows[name])
    base = {
        "classifier": plain["classifier"],
        "denoiser": plain["denoiser"],
        "image": (run.data.test_source.image(run.data.indices[0]).float() / run.data.test_source.scale).tolist(),
        "classes": run.data.num_classes,
        "rounds": rounds,
        "threads": run.config.threads or torch.get_num_threads(),
        "device": str(run.device),
    }
    settings = [(kind, recompute, length) for kind in PAPER for recompute in (False, True) for length in U]
    jobs = [
        {**base, "recompute": recompute, "purifier": {**plain["purifier"], "resampling": kind, "U": length}}
        for kind, recompute, length in settings
    ]
    for job in jobs:  # a length that cannot be is refused before anything is measured
        build_purifier(job["purifier"], row.model.classifier, row.model.purifier.denoiser)  # pyright: ignore
    found = [
        {"resampling": kind, "recompute": recompute, "U": length, **cost}
        for (kind, recompute, length), cost in zip(settings, _in_fresh_processes(jobs), strict=True)
    ]
    purifier, shape = plain["purifier"], "x".join(map(str, run.data.image_shape))
    where = (
        torch.cuda.get_device_name(run.device)
        if run.device.type == "cuda"
        else f"CPU, {base['threads']} thread{'s' * (base['threads'] > 1)}"
    )
    paper = "; ".join(f"{_name(kind)} {s} s, {gb} GB" for kind, (s, gb) in PAPER.items())
    caption = (
        f"Time and peak memory of one purification with its exact gradient against the resampling length U, row "
        f"{name}: n = 1 image of {shape}, grid_size = {purifier['grid_size']} (t_large = {purifier['t_large']}, "
        f"t_small = {purifier['t_small']}), {where}. Time: median of {rounds}, bars from fastest to slowest; memory: "
        "of the first gradient in a process of its own, beyond one call of each network. x: the largest U over the "
        "smallest. Graph kept, as in the paper, or recomputed in the backward pass. The paper at U = 20 (10 sampling "
        f"steps, a GPU, its own network): {paper}."
    )
    return Measured({"row": name, "n": 1, "U": list(U), "rounds": rounds, "costs": found}, caption)


def draw(measured: Measured) -> Figure:
    """Time at the left, memory at the right."""
    costs, U = measured.numbers["costs"], measured.numbers["U"]
    figure, drawing = style.sheet(7.2, 2.9, measured.caption)
    axes_time, axes_memory = drawing.subplots(1, 2)
    looks = {"repaint": (style.VERMILLION, "s"), "single": (style.BLUE, "o")}
    for kind, (colour, marker) in looks.items():
        for recompute in (False, True):
            of = [c for c in costs if c["resampling"] == kind and c["recompute"] == recompute]
            look = {"color": colour, "marker": marker, "ls": "--" if recompute else "-", "ms": 5, "capsize": 2}
            look["mfc"] = "white" if recompute else colour
            label = f"{_name(kind)}, {'recomputed' if recompute else 'graph kept'}: "
            time_ = [c["seconds"] for c in of]
            bars = [[c["seconds"] - c["fastest"] for c in of], [c["slowest"] - c["seconds"] for c in of]]
            axes_time.errorbar(U, time_, bars, label=label + _ratio(time_), **look)
            memory = [c["memory_mb"] for c in of]
            axes_memory.errorbar(U, memory, label=label + _ratio(memory), **look)
    axes_time.set(xlabel="resampling length U", ylabel="seconds a gradient", xticks=U, ylim=(0, None))
    axes_memory.set(xlabel="resampling length U", ylabel="peak memory, MB", xticks=U, ylim=(0, None))
    for axes in (axes_time, axes_memory):
        axes.legend(loc="upper left")
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    return figure


def _in_fresh_processes(jobs: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    # A fork server has the libraries imported once, and no thread started: its children are fresh and start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return list(tqdm(pool.imap(gradient_cost, jobs), "gradients", len(jobs), leave=False, unit="setting"))


def _memory(device: torch.device, entry: str) -> float:
    """Of this process, in MB: now (VmRSS) or at its peak (VmHWM); of the GPU, where it runs there."""
    if device.type == "cuda":
        bytes_ = torch.cuda.memory_allocated(device) if entry == "VmRSS" else torch.cuda.max_memory_allocated(device)
        return bytes_ / 2**20
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def _ratio(values: Sequence[float]) -> str:
    return f"x{values[-1] / values[0]:.2g}"


def _name(kind: str) -> str:
    return "multi-step" if kind == "repaint" else "single step"
