"""How far the rows of a run are above uniform noise of equal standard accuracy, and how far some are from others.

python benchmarks/compare_rows.py runs/tables/lab_tuning
python benchmarks/compare_rows.py runs/mask_controls --less real shuffled --less real other

Rows named ``uniform ..`` are the reference: robust accuracy is interpolated between their standard accuracies. The
first word of a row's name is its family. ``--less A B`` pairs the rows of two families by the rest of their names.
Intervals are of the images, which are the same in all rows.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hetpure.runs.read import read_run

RESAMPLES = 2000
"""Of the images, for intervals."""

REFERENCE = "uniform"


def outcomes(folder: Path) -> dict[str, np.ndarray]:
    """Of each finished row, (2, n): standard and robust outcomes, 1 for right, of the images that all of them have."""
    rows = {
        method.name: {r.index: (r.right("clean"), r.right("adversarial")) for r in method.records if r.failure is None}
        for method in read_run(folder).methods
    }
    rows = {name: row for name, row in rows.items() if len(row) == max(map(len, rows.values()))}
    shared = sorted(set.intersection(*(set(row) for row in rows.values())))
    return {name: np.array([row[index] for index in shared], dtype=float).T for name, row in rows.items()}


def above(row: np.ndarray, reference: Sequence[np.ndarray]) -> float:
    """Robust accuracy above the reference's at equal standard accuracy, between whose levels it interpolates.

    Levels of equal standard accuracy count with their mean. Beyond the last level its robust accuracy holds.
    """
    points = np.array([level.mean(axis=1) for level in reference])
    standard = np.unique(points[:, 0])
    robust = [points[points[:, 0] == value, 1].mean() for value in standard]
    return float(row[1].mean() - np.interp(row[0].mean(), standard, robust))


def interval(statistic: Callable[[np.ndarray], float], n: int) -> str:
    """A statistic of the numbers of n images, in points, with the 95 % interval over resamples of the images."""
    resamples = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    low, high = np.percentile([statistic(one) for one in resamples], (2.5, 97.5))
    return f"{100 * statistic(np.arange(n)):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def report(rows: dict[str, np.ndarray], pairs: Sequence[Sequence[str]]) -> list[str]:
    """The lines of the tables."""
    families: dict[str, dict[str, np.ndarray]] = {}
    for name, row in rows.items():
        family, _, rest = name.partition(" ")
        families.setdefault(family, {})[rest] = row
    reference = [*families[REFERENCE].values()]
    n = reference[0].shape[1]

    def shown(chosen: Sequence[np.ndarray]) -> str:
        def mean(i: np.ndarray) -> float:
            return float(np.mean([above(row[:, i], [level[:, i] for level in reference]) for row in chosen]))

        return interval(mean, n)

    lines = [f"n = {n} images; intervals: 95 %, {RESAMPLES} resamples of the images", ""]
    lines += ["| row | standard | robust | above uniform noise |", "| --- | ---: | ---: | ---: |"]
    for name, row in rows.items():
        standard, robust = 100 * row.mean(axis=1)
        lines.append(f"| {name} | {standard:.1f} | {robust:.1f} | {shown([row])} |")
    lines += [f"| {name}, mean of {len(own)} | | | {shown([*own.values()])} |" for name, own in families.items()]
    for one, other in pairs:
        both = [rest for rest in families[one] if rest in families[other]]
        difference = np.mean([families[one][rest] - families[other][rest] for rest in both], axis=0)
        cells = [interval(lambda i, d=d: float(d[i].mean()), n) for d in (*difference, difference.mean(axis=0))]
        lines += ["", f"| {one} less {other} | standard | robust | mean of both |", "| --- | ---: | ---: | ---: |"]
        lines.append(f"| mean of {len(both)} pairs | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prints the tables of a run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="an evaluation's output")
    parser.add_argument("--less", nargs=2, action="append", default=[], metavar=("A", "B"), help="family A less B")
    options = parser.parse_args()
    print("\n".join(report(outcomes(options.folder), options.less)))


if __name__ == "__main__":
    main()
