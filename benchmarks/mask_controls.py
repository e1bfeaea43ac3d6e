"""Does it matter where the mask is? Heterogeneous noise whose mask is moved, for runs beside the real one.

python evaluate.py --config benchmarks/mask_controls.yaml
python benchmarks/mask_controls.py runs/mask_controls

The classes are purifiers (``purifier.name=benchmarks/mask_controls.py:ShuffledMask``). Each masks as many pixels as the
real mask, in places that have nothing to do with the image. The command prints, for the rows of a run, how far they are
above uniform noise of equal standard accuracy (of any run with rows named ``uniform ..``, such as lab_tuning.yaml's),
and the differences between real and moved masks, paired by image.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetpure import ImageDataModule
from hetpure.noise import Draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.runs.read import read_run

RESAMPLES = 2000
"""Of the images, for intervals."""


class ShuffledMask(HeterogeneousPurifier):
    """The real mask with its pixels in another order, the same for all draws of an image.

    Attacker and defender have the same order: it is no secret, as the real mask is none.
    """

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        (mask,) = prepared
        order = _known_to_all(draws).uniform("shuffle", 0, mask.shape[-2:], torch.float64).flatten(1).argsort(dim=1)
        return super().purify(x, draws, mask.flatten(1).gather(1, order).view_as(mask))


class OtherImagesMask(HeterogeneousPurifier):
    """The real mask of another image, one of the first 64 of the lab's; evaluate on images after those.

    All masks are equally large with ``selection: top_fraction`` alone.
    """

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        choice = (_known_to_all(draws).uniform("image", 0, ()) * len(self.masks)).long()
        return super().purify(x, draws, self.masks.to(x)[choice])

    @functools.cached_property
    def masks(self) -> Tensor:
        """The masks of the other images, (64, 1, H, W)."""
        batch = next(iter(ImageDataModule("cifar10_jpeg", batch_size=64, subset=64).prepare().test_dataloader()))
        return self.mask(batch["image"])


def _known_to_all(draws: Draws) -> Draws:
    """Keys that depend on the image alone, for what is neither secret nor noise."""
    return replace(draws, process="mask", draw=torch.zeros_like(draws.draw))


def outcomes(folder: Path) -> dict[str, np.ndarray]:
    """Of each finished row, (2, n): standard and robust outcomes, 1 for right, of the images that all of them have."""
    rows = {
        method.name: {r.index: (r.right("clean"), r.right("adversarial")) for r in method.records if r.failure is None}
        for method in read_run(folder).methods
    }
    rows = {name: row for name, row in rows.items() if len(row) == max(map(len, rows.values()))}
    shared = sorted(set.intersection(*(set(row) for row in rows.values())))
    return {name: np.array([row[index] for index in shared], dtype=float).T for name, row in rows.items()}


def above_uniform(row: np.ndarray, uniform: Sequence[np.ndarray]) -> float:
    """Robust accuracy above that of uniform noise at equal standard accuracy, between whose levels it interpolates."""
    points = sorted(tuple(level.mean(axis=1)) for level in uniform)
    standard, robust = zip(*points, strict=True)
    return float(row[1].mean() - np.interp(row[0].mean(), standard, robust))


def report(folder: Path) -> list[str]:
    """The lines of the two tables."""
    rows = outcomes(folder)
    uniform = [row for name, row in rows.items() if name.startswith("uniform")]
    n = uniform[0].shape[1]
    resamples = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))

    def interval(statistic: Callable[[np.ndarray], float]) -> str:
        low, high = np.percentile([statistic(one) for one in resamples], (2.5, 97.5))
        return f"{100 * statistic(np.arange(n)):+5.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    def above(chosen: Sequence[np.ndarray]) -> str:
        def mean(i: np.ndarray) -> float:
            return float(np.mean([above_uniform(row[:, i], [level[:, i] for level in uniform]) for row in chosen]))

        return interval(mean)

    lines = [f"n = {n} images; intervals: 95 %, {RESAMPLES} resamples of the images", ""]
    lines += [
        "| row | standard | robust | above uniform noise of equal standard accuracy |",
        "| --- | ---: | ---: | ---: |",
    ]
    families: dict[str, list[np.ndarray]] = {}
    for name, row in rows.items():
        families.setdefault(name.split()[0], []).append(row)
        standard, robust = 100 * row.mean(axis=1)
        lines.append(f"| {name} | {standard:.1f} | {robust:.1f} | {above([row])} |")
    lines += [f"| {family}, mean of {len(own)} | | | {above(own)} |" for family, own in families.items()]
    for kind in ("shuffled", "other"):
        pairs = [
            (rows[name.replace(kind, "real", 1)], row) for name, row in rows.items() if name.startswith(f"{kind} ")
        ]
        if pairs:
            lines += [
                "",
                f"| real mask less {kind} | standard | robust | mean of both |",
                "| --- | ---: | ---: | ---: |",
            ]
            difference = np.mean([real - moved for real, moved in pairs], axis=0)
            cells = [interval(lambda i, d=d: float(d[i].mean())) for d in (*difference, difference.mean(axis=0))]
            lines.append(f"| mean of {len(pairs)} settings | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prints the report of a run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="a run of mask_controls.yaml")
    print("\n".join(report(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
