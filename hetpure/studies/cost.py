"""Figure 8: time and memory of one purification with its gradient, against the resampling length U.

Each setting is measured in a process of its own: a process's peak memory never falls again.
"""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from hetpure.attacks.gradients import ExactGradient
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import require
from hetpure.models.classifiers import build_classifier
from hetpure.models.denoisers import Recomputed, build_denoiser
from hetpure.models.precision import allow_tf32, prepared_classifier, prepared_denoiser
from hetpure.purification.registry import build_purifier
from hetpure.reports.plots import style
from hetpure.studies.figure import Measured, RunFigure, plural
from hetpure.studies.finished import FinishedRun
from hetpure.studies.panels import plot_intervals

PAPER = {"single": "7 s, 3.4 GB", "repaint": "64 s, 27.4 GB"}
"""The paper's figure 8, at 10 sampling steps and U = 20: one CIFAR-10 image, a GPU."""

KINDS = {"repaint": ("multi-step", style.VERMILLION, "s"), "single": ("single step", style.BLUE, "o")}
"""Kinds of resampling: in words, and how they are drawn."""


def gradient_cost(
    settings: dict[str, Any], image: np.ndarray, classes: int, recompute: bool, rounds: int, threads: int, device: str
) -> dict[str, float]:
    """Seconds and peak memory of a row's exact gradient at an image (C, H, W) in [0, 1], timed ``rounds`` times.

    Returns:
        ``calls`` of the denoiser; ``seconds``, the median, ``fastest`` and ``slowest``; ``memory_mb``, the peak beyond
        one call of each network, which is right in a process that has measured nothing before.
    """
    torch.set_num_threads(threads)
    precision, compiled = settings["precision"], settings["compile"]
    allow_tf32(precision)
    classifier = prepared_classifier(build_classifier(**settings["classifier"]), precision, compiled)
    denoiser = prepared_denoiser(build_denoiser(**settings["denoiser"]), precision, compiled)
    purifier = build_purifier(settings["purifier"], classifier, Recomputed(denoiser) if recompute else denoiser)
    model = PurifiedClassifier(classifier, purifier, classes, ensemble_size=1, chunk_size=1).to(device)
    gradient = ExactGradient(model, eot=1, seed=0)
    x = torch.tensor(image, device=device)[None]
    sample = torch.zeros(1, dtype=torch.long, device=device)
    # What libraries allocate at their first use belongs to no setting.
    leaf = (2.0 * x - 1.0).requires_grad_()
    torch.autograd.grad(classifier((denoiser(leaf, 0) + 1.0) / 2.0).sum(), leaf)
    del leaf
    gc.collect()
    before = _memory(x.device, peak=False)
    gradient(x, sample, sample, 0)
    memory = _memory(x.device, peak=True) - before
    seconds = []
    for iteration in range(rounds):
        start = time.perf_counter()
        gradient(x, sample, sample, iteration)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - start)
    times = {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    return {"calls": purifier.network_calls, **times, "memory_mb": memory}


@dataclass
class Cost(RunFigure):
    """Time and memory of a gradient against U, with the graph kept (as in the paper) and recomputed."""

    U: tuple[int, ...] = (1, 2, 5, 10, 20)  # resampling lengths
    rounds: int = 5  # timed gradients of each, of which the median counts

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        require(len(self.U) >= 1, "U", list(self.U), "one length or more")
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")
        name = run.heterogeneous(rows)
        (row,) = run.build([name])  # refuses other weights than the run's
        purifier, classes = run.rows[name]["purifier"], run.data.num_classes
        image = item(run.data.test_source, run.data.indices[0])["image"].numpy()
        threads, device = torch.get_num_threads(), str(run.device)
        kinds = [(kind, recompute) for kind in PAPER for recompute in (False, True)]
        settings = [({**purifier, "resampling": kind, "U": U}, recompute) for kind, recompute in kinds for U in self.U]
        for section, _ in settings:  # a length that cannot be used is refused before anything is measured
            build_purifier(section, row.model.classifier, row.model.purifier.denoiser)  # pyright: ignore
        # A fork server has imported the libraries and started no thread: its children are fresh and start at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        costs = []
        with context.Pool(1, maxtasksperchild=1) as pool:
            for section, recompute in tqdm(settings, "gradients", leave=False):
                job = ({**run.rows[name], "purifier": section}, image, classes, recompute, self.rounds, threads, device)
                cost = {"resampling": section["resampling"], "recompute": recompute, "U": section["U"]}
                costs.append(cost | pool.apply(gradient_cost, job))
        on_cuda = run.device.type == "cuda"
        machine = torch.cuda.get_device_name(run.device) if on_cuda else f"CPU, {plural(threads, 'thread')}"
        paper = "; ".join(f"{KINDS[kind][0]} {cost}" for kind, cost in PAPER.items())
        caption = (
            "Time and peak memory of one purification with its exact gradient against the resampling length U, of row "
            f"{name}, n = 1 image of {'x'.join(map(str, run.data.image_shape))}, t_large = {purifier['t_large']}, "
            f"t_small = {purifier['t_small']}, {plural(costs[0]['calls'], 'denoiser call')} with single-step "
            f"resampling, {machine}. Time: median of {self.rounds}, bars from fastest to slowest; memory: of the first "
            "gradient in a process of its own, beyond one call of each network. x: the largest U over the smallest. "
            "Graph kept, as in the paper, or recomputed in the backward pass. The paper at U = 20 (10 sampling steps, "
            f"a GPU, its own network): {paper}."
        )
        return Measured({"row": name, "n": 1, "U": list(self.U), "rounds": self.rounds, "costs": costs}, caption)

    def draw(self, measured: Measured) -> Figure:
        costs, U = measured.numbers["costs"], measured.numbers["U"]
        figure, drawing = style.sheet(7.2, 2.9, measured.caption)
        panels = drawing.subplots(1, 2)
        for kind, (words, colour, marker) in KINDS.items():
            for recompute in (False, True):
                of = [c for c in costs if c["resampling"] == kind and c["recompute"] == recompute]
                look = {"color": colour, "marker": marker, "ls": "--" if recompute else "-", "ms": 5, "capsize": 2}
                look["mfc"] = "white" if recompute else colour
                times = [(c["seconds"], c["fastest"], c["slowest"]) for c in of]
                memory = [(c["memory_mb"],) * 3 for c in of]
                for axes, values in zip(panels, (times, memory), strict=True):
                    ratio = f"x{values[-1][0] / values[0][0]:.2g}"
                    label = f"{words}, {'recomputed' if recompute else 'graph kept'}: {ratio}"
                    plot_intervals(axes, U, values, label=label, **look)
        for axes, ylabel in zip(panels, ("seconds a gradient", "peak memory, MB"), strict=True):
            axes.set(xlabel="resampling length U", ylabel=ylabel, xticks=U, ylim=(0, None))
            axes.legend(loc="upper left")
            axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the legend
        return figure


def _memory(device: torch.device, peak: bool) -> float:
    """What this process uses, or has used at its peak, in MB: of the GPU where it runs there."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS")) / 1024
