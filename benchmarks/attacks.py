"""Strength against network calls: PGD+EOT, APGD+EOT and momentum PGD on the digits that ship with the project.

    python benchmarks/attacks.py --images 24 --json calls.jsonl --plot calls.png
    python benchmarks/attacks.py --images 16 --only pgd-50x4,momentum-200x4

Strength is measured by an independent evaluation: each adversarial image goes through the defense ``--draws`` times
with draws that no attack has seen. Printed are the mean share of right answers, the share of images that the mean
logits of these draws get right (robust accuracy), and the difference of shares to the first attack listed, paired image
by image, with its standard error. Calls are images that the denoiser sees, for one image attacked: selection, checks
and padding included; a call with a gradient and one without count alike.

``--only`` names NAME[:LOSS][~WAY]-STEPSxEOT. NAME is ``pgd``, ``apgd``, ``momentum`` (momentum PGD) or ``cosine`` (the
same without momentum: PGD whose steps fall from a quarter of eps to zero). WAY is ``grow``, draws that grow linearly
from 1 to 2 EOT - 1, so that EOT is their mean, or ``share4``, the same draws in four consecutive iterations. Results in
``--json`` are kept: what stands there already is not run again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.apgd import APGD
from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.config import read_config, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from hetpure.models.denoisers import Denoiser, DenoiserWrapper
from hetpure.noise import Draws

DEFAULT = (
    "pgd-200x20,momentum-100x7,pgd-40x20,cosine-36x20,momentum~grow-100x7,pgd~grow-40x20,pgd~share4-100x8,"
    "momentum-50x4,momentum~grow-50x4,pgd-70x4"
)
EPS = 0.15


class Counted(DenoiserWrapper):
    """A denoiser that counts the images it sees."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.count = 0

    def forward(self, x: Tensor, t: int) -> Tensor:
        self.count += len(x)
        return self.denoiser(x, t)


class Growing(ExactGradient):
    """Draws that grow linearly with the iterations, ``eot`` of them on average."""

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, steps: int) -> None:
        super().__init__(process, eot, seed)
        self.mean, self.steps = eot, steps

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.eot = 1 + round(2 * (self.mean - 1) * iteration / max(self.steps - 1, 1))
        return super().__call__(x, label, sample, iteration, loss)


class Shared(ExactGradient):
    """The same draws in several consecutive iterations."""

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, together: int) -> None:
        super().__init__(process, eot, seed)
        self.together = together

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        return super().__call__(x, label, sample, iteration // self.together, loss)


def attack_of(name: str, steps: int) -> Attack:
    """An attack by its benchmark name."""
    kind, _, loss = name.partition(":")
    chosen: Any = {"loss": loss} if loss else {}
    if kind == "pgd":
        return PGD("Linf", EPS, steps, 0.02, **chosen)
    if kind == "apgd":
        return APGD("Linf", EPS, steps, **chosen)
    return MomentumPGD("Linf", EPS, steps, momentum=0.0 if kind == "cosine" else 0.9, **chosen)


def source_of(way: str, process: PurifiedClassifier, eot: int, steps: int) -> ExactGradient:
    """Where an attack's gradients come from: fresh draws in every iteration, or one of the ways that save some."""
    if way == "grow":
        return Growing(process, eot, 0, steps)
    if way.startswith("share"):
        return Shared(process, eot, 0, int(way.removeprefix("share")))
    return ExactGradient(process, eot, 0)


def draw(results: dict[str, dict[str, Any]], title: str, file: Path) -> None:
    """The share of right answers against calls, each attack a point with the standard error over images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Okabe & Ito's colours, and a shape each: to be told apart without colour too.
    looks = {
        "pgd": ("#0072B2", "o", "PGD"),
        "cosine": ("#56B4E9", "v", "PGD, falling steps"),
        "momentum": ("#D55E00", "s", "momentum PGD"),
        "apgd": ("#009E73", "^", "APGD-CE"),
    }
    figure, axes = pyplot.subplots(figsize=(8.0, 4.6), layout="constrained")
    reference = torch.tensor(next(iter(results.values()))["share"])
    axes.axhline(float(reference.mean()), color="0.6", linewidth=1.0, linestyle="--", zorder=0)
    seen: set[str] = set()
    for spec, row in results.items():
        # Attacks of about the same calls stand side by side.
        near = sorted(other for other, of in results.items() if abs(of["calls"] / row["calls"] - 1.0) < 0.15)
        place = row["calls"] * 1.11 ** (near.index(spec) - (len(near) - 1) / 2)
        kind = spec.partition("-")[0].partition("~")[0].partition(":")[0]
        colour, marker, label = looks[kind]
        share = torch.tensor(row["share"])
        error = (share - reference).std() / len(share) ** 0.5
        hollow = "~" in spec
        bar = 0.0 if spec == next(iter(results)) else float(error)
        axes.errorbar(
            place, share.mean(), yerr=bar, fmt=marker, color=colour, markerfacecolor="white" if hollow else colour,
            markersize=7, capsize=3, linewidth=1.2, label=label if kind not in seen else None,
        )  # fmt: skip
        seen.add(kind)
        said = spec.partition("~")[2].partition("-")[0] if hollow else ""
        size = spec.rpartition("-")[2].replace("x", " x ")
        axes.annotate(
            f"{size} {said}".strip(), (place, float(share.mean()) + bar), xytext=(0, 5), textcoords="offset points",
            fontsize=8, color="0.25", rotation=90, ha="center", va="bottom",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("denoiser calls for one image")
    axes.set_ylabel("share of right answers, fresh draws")
    axes.margins(y=0.2)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Runs the attacks one after the other and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of the purifier's grid")
    parser.add_argument("--chunk", type=int, help="rows in a network call; by default the images: nothing is padded")
    parser.add_argument("--only", default=DEFAULT)
    parser.add_argument("--json", type=Path, help="append results here, and take from here what is there")
    parser.add_argument("--plot", type=Path, help="draw share right against calls")
    options = parser.parse_args()
    torch.set_num_threads(1)
    raw = read_config("demo.yaml", [f"data.subset={options.images}", f"purifier.steps={options.steps}"])
    config = complete({**raw, "chunk_size": options.chunk or options.images, "rows": {"heterogeneous": {}}})
    data = ImageDataModule(**to_dict(config.data)).prepare()
    model = build_rows(config, data)[0].model
    counted = Counted(model.purifier.denoiser)  # pyright: ignore[reportArgumentType]
    model.purifier.denoiser = counted
    items = [item(data.test_source, index) for index in data.indices]
    x = torch.stack([one["image"] for one in items])
    label, sample = (torch.tensor([int(one[key]) for one in items]) for key in ("label", "index"))

    def strength(images: Tensor) -> tuple[Tensor, Tensor]:
        """Share of right draws of each image, and whether the mean of their logits is right."""
        n = options.draws
        draws = Draws(7, "benchmark", sample.repeat_interleave(n), torch.arange(n).repeat(len(sample)))
        with torch.no_grad():
            logits = model.purified_logits(images, draws).unflatten(0, (len(images), n))
        right = (logits.argmax(dim=2) == label[:, None]).to(x.dtype).mean(dim=1)
        return right, (logits.mean(dim=1).argmax(dim=1) == label).to(x.dtype)

    first: Tensor | None = None
    settings = {"images": options.images, "draws": options.draws, "steps": options.steps}
    lines = options.json.read_text().splitlines() if options.json and options.json.is_file() else []
    known = {row["attack"]: row for row in map(json.loads, lines) if row["settings"] == settings}
    results: dict[str, dict[str, Any]] = {}
    share, robust = strength(x)
    print(f"clean: share right {share.mean():.3f}, accuracy {robust.mean():.3f}", flush=True)
    print(f"{'attack':24}{'calls/image':>12}{'share right':>13}{'robust':>9}{'difference':>20}{'seconds':>9}")
    for spec in options.only.split(","):
        row = known.get(spec)
        if row is None:
            name, _, size = spec.rpartition("-")
            steps, eot = (int(number) for number in size.split("x"))
            kind, _, way = name.partition("~")
            source = source_of(way, model, eot, steps)
            counted.count, began = 0, time.perf_counter()
            found = attack_of(kind, steps)(source, x, label, sample)
            seconds, calls = time.perf_counter() - began, counted.count / len(x)
            share, robust = strength(found)
            row = {"attack": spec, "calls": calls, "share": share.tolist(), "robust": robust.tolist()}
            row |= {"seconds": seconds, "settings": settings}
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        results[spec] = row
        share, robust = torch.tensor(row["share"]), torch.tensor(row["robust"])
        first = share if first is None else first
        gap = share - first
        error = gap.std() / len(gap) ** 0.5
        line = f"{spec:24}{row['calls']:12.0f}{share.mean():13.3f}{robust.mean():9.3f}"
        print(f"{line}{gap.mean():+12.3f} ± {error:.3f}{row['seconds']:9.0f}", flush=True)
    if options.plot:
        title = (
            f"Digits, heterogeneous purifier, Linf {EPS}, n = {options.images} images, {options.draws} draws each; "
            "labels: steps x EOT.\nBars: standard error of the paired difference to the first attack (dashed). "
            "Attacks of about equal calls stand side by side.\n"
            f"python benchmarks/attacks.py --images {options.images} --plot {options.plot.name}"
        )
        draw(results, title, options.plot)


if __name__ == "__main__":
    main()
