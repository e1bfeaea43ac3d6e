"""What an attack's gradient costs in network calls, draws and processes: ratios within one run, on this machine.

    python benchmarks/gradients.py [--denoiser FOLDER] [--batch 8] [--network-calls 2 10 100]

Prints, for each number of network calls, the time of an exact gradient of one draw over that of as many bare forward +
input-gradient calls and the classifier's own (where calls are recomputed, also over those with one more forward pass
each), and its peak memory, with the graph kept and recomputed; the time of EOT draws one after the other over that of
all in one batch; and that of one process over two that share the images.
"""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import bare_network, build_networks, build_parser, heterogeneous, time_ratio
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, Recomputed

KEPT = 20
"""Network calls whose graph is still kept; more of them take gigabytes."""


def exact_gradient(
    denoiser: Denoiser, classifier: Classifier, calls: int, x: Tensor, eot: int = 1, chunk: int | None = None
) -> Callable[[], Any]:
    """The exact gradient at images x, of ``eot`` draws through ``calls`` network calls each."""
    process = PurifiedClassifier(
        classifier, heterogeneous(denoiser, classifier, 5 * calls), 10, chunk_size=chunk or len(x)
    )
    gradient = ExactGradient(process, eot=eot, seed=0)
    label, sample = torch.zeros(len(x), dtype=torch.long), torch.arange(len(x))
    return lambda: gradient(x, label, sample, 0)


def bare_gradient(
    denoiser: Denoiser, classifier: Classifier, calls: int, x: Tensor, forward_again: bool
) -> Callable[[], None]:
    """As many forward + input-gradient calls of the networks alone, perhaps with one more forward pass each."""
    network = bare_network(denoiser)

    def compute() -> None:
        for t in range(calls):
            if forward_again:
                with torch.no_grad():
                    network(x, t)
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(network(leaf, t).sum(), leaf)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)

    return compute


def peak_memory(path: str | None, batch: int, calls: int, recompute: bool) -> float:
    """Peak resident memory in MB that one gradient adds; to be called in a fresh process."""
    denoiser, classifier, x = build_networks(path, batch)
    denoiser = Recomputed(denoiser) if recompute else denoiser
    exact_gradient(denoiser, classifier, 2, x[:1])()  # libraries' own first-use memory is not the graph's
    before = _memory("VmRSS")
    exact_gradient(denoiser, classifier, calls, x)()
    return _memory("VmHWM") - before


def share(path: str | None, batch: int, start: Any, part: int, parts: int) -> float:
    """Seconds that one of several processes, on a thread of its own, needs for its share of a batch of gradients."""
    torch.set_num_threads(1)
    denoiser, classifier, x = build_networks(path, batch)
    x = x[part::parts]
    compute = exact_gradient(denoiser, classifier, 2, x, eot=4)
    compute()
    if start is not None:
        start.wait()
    began = time.perf_counter()
    for _ in range(3):
        compute()
    return time.perf_counter() - began


def _memory(entry: str) -> float:
    """Of this process, in MB: now (VmRSS) or at its peak (VmHWM). getrusage would count the parent's peak too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def main() -> None:
    """Measures and prints."""
    parser = build_parser(__doc__)
    parser.add_argument("--denoiser", help="diffusers folder; by default a random 32x32 UNet of the lab's size")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--network-calls", type=int, nargs="+", default=[2, 10, 100], help="divide 200")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    networks = arguments.denoiser, arguments.batch
    denoiser, classifier, x = build_networks(*networks)
    print(f"batch {len(x)}, {torch.get_num_threads()} threads, images {'x'.join(map(str, x.shape[1:]))}")
    context = multiprocessing.get_context("spawn")
    for calls in arguments.network_calls:
        for recompute in (False, True)[calls > KEPT :]:
            ours = exact_gradient(Recomputed(denoiser) if recompute else denoiser, classifier, calls, x)
            with context.Pool(1) as pool:
                memory = pool.apply(peak_memory, (*networks, calls, recompute))
            for again in (False, True)[: 1 + recompute]:
                bare = bare_gradient(denoiser, classifier, calls, x, again)
                ratio, seconds = time_ratio(ours, bare, arguments.rounds)
                graph = "recomputed" if recompute else "graph kept"
                over = "bare calls with one more forward" if again else "bare calls"
                print(f"gradient, {calls} calls, {graph}: {ratio:.3f} of {over} ({seconds:.2f} s), {memory:.0f} MB")
    together = exact_gradient(denoiser, classifier, 2, x, eot=8, chunk=8 * len(x))
    one_by_one = exact_gradient(denoiser, classifier, 2, x, eot=8)
    ratio, _ = time_ratio(one_by_one, together, arguments.rounds)
    print(f"EOT of 8, a draw at a time over all at once: {ratio:.3f}")
    with context.Manager() as manager, context.Pool(2) as pool:
        alone = pool.apply(share, (*networks, None, 0, 1))
        start = manager.Barrier(2)
        shared = max(pool.starmap(share, [(*networks, start, part, 2) for part in (0, 1)]))
    print(f"one process over two, a thread each: {alone / shared:.2f}")


if __name__ == "__main__":
    main()
