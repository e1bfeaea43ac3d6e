"""What an attack's gradient costs in steps, draws and processes: ratios within one run, on this machine.

    python -m benchmarks.gradients [--denoiser FOLDER] [--batch 8] [--steps 2 10 100]

Prints, for each number of denoising steps, the time of an exact PGD+EOT gradient over that of as many bare forward +
input-gradient calls and the classifier's own (where each step is recomputed, also over those with one more forward pass
each), and its peak memory, with the graph kept and recomputed; the time of EOT draws one after the other over that of
all in one batch; and of one process over two that share the images. Graphs that would not fit are not kept. What lower
precision and compiling change, ``benchmarks/precision.py`` prints.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.purification import gradient_of, peak_memory, ratio, setting
from hetpure.attacks.gradients import ExactGradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser
from hetpure.purification.heterogeneous import HeterogeneousPurifier

KEPT = 20
"""Steps whose graph is still kept; more of them took gigabytes."""


def bare(denoiser: Denoiser, classifier: Classifier, steps: int, x: torch.Tensor, again: bool) -> Callable[[], Any]:
    """As many forward + input-gradient calls of the networks alone; ``again`` with one more forward pass each."""
    unet: Any = denoiser.unet if isinstance(denoiser, DiffusersDenoiser) else denoiser

    def call() -> None:
        for t in range(steps):
            if again:
                with torch.no_grad():
                    _ = unet(x, t).sample if isinstance(denoiser, DiffusersDenoiser) else unet(x, t)
            leaf = x.clone().requires_grad_()
            out = unet(leaf, t).sample if isinstance(denoiser, DiffusersDenoiser) else unet(leaf, t)
            torch.autograd.grad(out.sum(), leaf)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)

    return call


def source_of(denoiser: Denoiser, classifier: Classifier, eot: int, chunk: int) -> ExactGradient:
    """Exact gradients through two denoising steps."""
    purifier = HeterogeneousPurifier(denoiser, classifier, grid_size=10)
    return ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=chunk), eot=eot, seed=0)


def share(arguments: argparse.Namespace, start: Any, part: int, parts: int) -> float:
    """Seconds that one of several processes, on a thread of its own, needs for its share of a batch of gradients."""
    torch.set_num_threads(1)
    denoiser, classifier, x = setting(arguments)
    x = x[part::parts]
    source, label = source_of(denoiser, classifier, 4, len(x)), torch.zeros(len(x), dtype=torch.long)
    sample = torch.arange(len(x))
    source(x, label, sample, 0)
    if start is not None:
        start.wait()
    began = time.perf_counter()
    for iteration in range(3):
        source(x, label, sample, iteration)
    return time.perf_counter() - began


def processes(arguments: argparse.Namespace) -> float:
    """Time of one process with one thread over the slower of two that share the images."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        alone = pool.apply(share, (arguments, None, 0, 1))
        start = manager.Barrier(2)
        together = max(pool.starmap(share, [(arguments, start, part, 2) for part in (0, 1)]))
    return alone / together


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", help="diffusers folder; by default a random 32x32 UNet of lab size")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 10, 100], help="denoising steps; divide 200")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    denoiser, classifier, x = setting(arguments)
    print(f"batch {len(x)}, {torch.get_num_threads()} threads, images {'x'.join(map(str, x.shape[1:]))}")
    for steps in arguments.steps:
        for recompute in (False, True):
            if not recompute and steps > KEPT:
                continue
            ours = gradient_of(denoiser, classifier, steps, x, recompute)
            memory = peak_memory(arguments, steps, recompute)
            for again in (False, True)[: 1 + recompute]:
                value, seconds = ratio(ours, bare(denoiser, classifier, steps, x, again), arguments.rounds)
                kind = "recomputed" if recompute else "graph kept"
                calls = "bare calls with one more forward" if again else "bare calls"
                print(f"gradient, {steps} steps, {kind}: {value:.3f} of {calls} ({seconds:.2f} s), {memory:.0f} MB")
    label, sample = torch.zeros(len(x), dtype=torch.long), torch.arange(len(x))
    batched = source_of(denoiser, classifier, 8, 8 * len(x))
    looped = source_of(denoiser, classifier, 8, len(x))
    value, _ = ratio(lambda: looped(x, label, sample, 0), lambda: batched(x, label, sample, 0), arguments.rounds)
    print(f"EOT of 8, a draw at a time over all at once: {value:.3f}")
    print(f"one process over two, a thread each: {processes(arguments):.2f}")


if __name__ == "__main__":
    main()
