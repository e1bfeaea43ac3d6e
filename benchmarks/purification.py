"""What the framework costs on top of the networks: ratios within one run, on this machine.

    python benchmarks/purification.py [--denoiser FOLDER] [--batch 16] [--steps 50]

Prints the time of a purification over that of the same number of bare network calls at the same batch size; the time of
an exact gradient through it over bare forward + input-gradient calls, with and without recomputation; and the peak
memory of a gradient through 100 denoising steps over that through 5. Rounds of the two sides alternate, and the median
of their ratios is what counts: a machine's mood then hits both.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from hetpure.attacks.gradients import ExactGradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser, Recomputed, build_denoiser
from hetpure.noise import defense_draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier


def lab_sized_denoiser() -> Denoiser:
    """A 32x32 UNet of about a million parameters with random weights: cost does not depend on what they are."""
    blocks = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    unet: Any = UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        norm_num_groups=8,
    )
    return DiffusersDenoiser(unet)


def ratio(ours: Callable[[], Any], bare: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median ratio of times, and ours in seconds."""
    ours()
    bare()
    ratios, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        ours()
        seconds.append(time.perf_counter() - middle)
        ratios.append(seconds[-1] / (middle - start))
    return statistics.median(ratios), statistics.median(seconds)


def gradient_of(
    denoiser: Denoiser, classifier: Classifier, steps: int, x: torch.Tensor, recompute: bool
) -> Callable[[], Any]:
    """An exact gradient of one draw per image through ``steps`` network calls."""
    seen = Recomputed(denoiser) if recompute else denoiser
    purifier = HeterogeneousPurifier(seen, classifier, grid_size=steps * 5)
    source = ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=len(x)), eot=1, seed=0)
    label, sample = torch.zeros(len(x), dtype=torch.long), torch.arange(len(x))
    return lambda: source(x, label, sample, 0)


def peak_memory(arguments: argparse.Namespace, steps: int, recompute: bool) -> float:
    """Peak resident memory in MB that one gradient adds, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (arguments, steps, recompute))


def _peak_memory(arguments: argparse.Namespace, steps: int, recompute: bool) -> float:
    denoiser, classifier, x = setting(arguments)
    gradient_of(denoiser, classifier, 2, x[:1], recompute)()  # libraries' own first-use memory is not the graph's
    before = _memory("VmRSS")
    gradient_of(denoiser, classifier, steps, x, recompute)()
    return _memory("VmHWM") - before


def _memory(entry: str) -> float:
    """Of this process, in MB: now (VmRSS) or at its peak (VmHWM). getrusage would count the parent's peak too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def setting(arguments: argparse.Namespace) -> tuple[Denoiser, Classifier, torch.Tensor]:
    """Networks and images."""
    torch.manual_seed(0)
    denoiser = build_denoiser(arguments.denoiser) if arguments.denoiser else lab_sized_denoiser()
    network = timm.create_model("cifar_resnet20", num_classes=10, in_chans=denoiser.channels)
    classifier = Classifier(network, (0.5,), (0.25,)).eval().requires_grad_(False)
    size = denoiser.image_size or 32
    return denoiser, classifier, torch.rand(arguments.batch, denoiser.channels, size, size)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", help="diffusers folder; by default a random 32x32 UNet of lab size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50, help="network calls of the purification; divides 200")
    parser.add_argument(
        "--gradient-steps", type=int, default=4, help="network calls of the timed gradient; divides 200"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    denoiser, classifier, x = setting(arguments)

    purifier = HeterogeneousPurifier(denoiser, classifier, grid_size=arguments.steps * 5)
    draws = defense_draws(0, torch.arange(len(x)), 1)
    z, (mask,) = torch.randn_like(x), purifier.prepare(x)
    unet: Any = denoiser.unet if isinstance(denoiser, DiffusersDenoiser) else denoiser

    def network(x: torch.Tensor, t: int) -> torch.Tensor:
        """The network itself, nothing of ours around it."""
        return unet(x, t).sample if isinstance(denoiser, DiffusersDenoiser) else unet(x, t)

    def bare_calls() -> None:
        for t in purifier.timesteps[:-1]:
            network(z, t)

    def bare_gradients(forward_again: bool) -> None:
        for t in purifier.timesteps[: arguments.gradient_steps]:
            if forward_again:
                with torch.no_grad():
                    network(z, t)
            leaf = z.clone().requires_grad_()
            torch.autograd.grad(network(leaf, t).sum(), leaf)
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(classifier(leaf).sum(), leaf)

    print(f"batch {len(x)}, {torch.get_num_threads()} threads, images {'x'.join(map(str, x.shape[1:]))}")
    with torch.no_grad():
        value, seconds = ratio(lambda: purifier.purify(x, draws, mask), bare_calls, arguments.rounds)
        print(f"purification, {purifier.network_calls} calls, over bare calls: {value:.3f} ({seconds:.2f} s)")
        value, seconds = ratio(lambda: purifier(x, draws), bare_calls, arguments.rounds)
        print(f"the same with its mask (one classifier call more): {value:.3f} ({seconds:.2f} s)")
    for recompute, again in ((False, False), (True, False), (True, True)):
        ours = gradient_of(denoiser, classifier, arguments.gradient_steps, x, recompute)
        value, seconds = ratio(ours, lambda again=again: bare_gradients(again), arguments.rounds)
        kind = ("recomputed, " if recompute else "") + f"over bare {'2 forwards' if again else 'forward'} + backward"
        print(f"gradient, {arguments.gradient_steps} calls, {kind}: {value:.3f} ({seconds:.2f} s)")
    for recompute in (True, False):
        few, many = (peak_memory(arguments, steps, recompute) for steps in (5, 100 if recompute else 20))
        kind = "100 steps over 5, recomputed" if recompute else "20 steps over 5, not recomputed"
        print(f"gradient's peak memory, {kind}: {many / few:.2f} ({many:.0f} MB over {few:.0f} MB)")


if __name__ == "__main__":
    main()
