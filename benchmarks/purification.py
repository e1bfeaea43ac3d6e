"""What purification costs beside its network calls: ratios within one run, on this machine.

    python benchmarks/purification.py [--denoiser FOLDER] [--batch 16] [--network-calls 50]

Prints the time of a purification over that of as many calls of the bare network at the same batch size, without
and with the attention mask.
"""

import torch
from common import bare_network, build_networks, build_parser, heterogeneous, time_ratio

from hetpure.noise import defense_draws


def main() -> None:
    """Measures and prints."""
    parser = build_parser(__doc__)
    parser.add_argument("--denoiser", help="diffusers folder; by default a random 32x32 UNet of the lab's size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--network-calls", type=int, default=50, help="of a purification; divides 200")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    denoiser, classifier, x = build_networks(arguments.denoiser, arguments.batch)
    purifier = heterogeneous(denoiser, classifier, 5 * arguments.network_calls)
    draws = defense_draws(0, torch.arange(len(x)), 1)
    x_t, (mask,) = torch.randn_like(x), purifier.prepare(x)
    network = bare_network(denoiser)

    def bare_calls() -> None:
        for t in purifier.timesteps[:-1]:
            network(x_t, t)

    print(f"batch {len(x)}, {torch.get_num_threads()} threads, images {'x'.join(map(str, x.shape[1:]))}")
    with torch.no_grad():
        ratio, seconds = time_ratio(lambda: purifier.purify(x, draws, mask), bare_calls, arguments.rounds)
        print(f"purification, {purifier.network_calls} calls, over bare calls: {ratio:.3f} ({seconds:.2f} s)")
        ratio, seconds = time_ratio(lambda: purifier(x, draws), bare_calls, arguments.rounds)
        print(f"the same with its mask (one classifier call more): {ratio:.3f} ({seconds:.2f} s)")


if __name__ == "__main__":
    main()
