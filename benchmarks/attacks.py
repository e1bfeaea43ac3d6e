"""Strength against network calls: PGD, APGD, momentum and selective PGD on the digits that ship with the project.

    python benchmarks/attacks.py --images 24 --json calls.jsonl --plot calls.png
    python benchmarks/attacks.py --images 16 --only pgd-50x4,momentum-200x4

Strength is measured by an independent evaluation: each adversarial image goes through the defense ``--draws`` times
with draws that no attack has seen. Printed are the mean share of right answers, the share of images that the mean
logits of these draws get right (robust accuracy), and the difference of shares to the first attack listed, paired image
by image, with its standard error. Calls are images that the denoiser sees, for one image attacked: selection, checks
and padding included; a call with a gradient and one without count alike.

``--only`` names NAME[:LOSS][~DRAWS]-STEPSxEOT. NAME is ``pgd``, ``apgd``, ``selective``, ``momentum`` (momentum PGD) or
``cosine`` (momentum PGD without momentum: steps that fall from a quarter of eps to zero). DRAWS is ``grow``, draws that
grow linearly from 1 to 2 EOT - 1, so that EOT is their mean, or ``share4``, the same draws in four consecutive
iterations. Results in ``--json`` are kept: what is there already is not run again.
"""

import json
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from common import build_parser, heterogeneous, load_subset
from torch import Tensor, nn

from hetpure.attacks.apgd import APGD
from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.attacks.selective import SelectivePGD
from hetpure.config import read_config, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.evaluation.config import complete
from hetpure.models import build_classifier, build_denoiser
from hetpure.noise import Draws
from hetpure.reports.plots import style

DEFAULT = (
    "pgd-200x20,momentum-100x7,pgd-40x20,cosine-36x20,momentum~grow-100x7,pgd~grow-40x20,pgd~share4-100x8,"
    "momentum-50x4,momentum~grow-50x4,pgd-70x4"
)
EPS = 0.15


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

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, iterations: int) -> None:
        super().__init__(process, eot, seed)
        self.iterations = iterations

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        return super().__call__(x, label, sample, iteration // self.iterations, loss)


def attack_of(name: str, steps: int) -> Attack:
    """An attack by its benchmark name."""
    kind, _, loss = name.partition(":")
    arguments: Any = {"loss": loss} if loss else {}
    if kind == "pgd":
        return PGD("Linf", EPS, steps, 0.02, **arguments)
    if kind == "apgd":
        return APGD("Linf", EPS, steps, **arguments)
    if kind == "selective":
        return SelectivePGD("Linf", EPS, steps, **arguments)
    return MomentumPGD("Linf", EPS, steps, momentum=0.0 if kind == "cosine" else 0.9, **arguments)


def gradient_of(draws: str, process: PurifiedClassifier, eot: int, steps: int) -> ExactGradient:
    """An attack's gradients: with fresh draws in every iteration, or ``grow`` or ``shareN``."""
    if draws == "grow":
        return Growing(process, eot, 0, steps)
    if draws.startswith("share"):
        return Shared(process, eot, 0, int(draws.removeprefix("share")))
    return ExactGradient(process, eot, 0)


def plot(results: dict[str, dict[str, Any]], title: str, file: Path) -> None:
    """The share of right answers against calls, each attack a point with the standard error over images."""
    looks = {
        "pgd": (style.BLUE, "o", "PGD"),
        "cosine": (style.SKY, "v", "PGD, falling steps"),
        "momentum": (style.VERMILLION, "s", "momentum PGD"),
        "apgd": (style.GREEN, "^", "APGD-CE"),
        "selective": (style.PURPLE, "D", "selective PGD"),
    }
    figure, drawing = style.sheet(8.0, 4.6, title)
    axes = drawing.subplots()
    reference = torch.tensor(next(iter(results.values()))["share"])
    axes.axhline(float(reference.mean()), color="0.6", linewidth=1.0, linestyle="--", zorder=0)
    labelled: set[str] = set()
    for attack, row in results.items():
        # Attacks of about the same calls stand side by side.
        near = sorted(other for other, of in results.items() if abs(of["calls"] / row["calls"] - 1.0) < 0.15)
        x = row["calls"] * 1.11 ** (near.index(attack) - (len(near) - 1) / 2)
        name, _, size = attack.rpartition("-")
        kind, _, draws = name.partition("~")
        kind = kind.partition(":")[0]
        colour, marker, label = looks[kind]
        share = torch.tensor(row["share"])
        bar = 0.0 if attack == next(iter(results)) else float((share - reference).std() / len(share) ** 0.5)
        look = {"color": colour, "markerfacecolor": "white" if draws else colour, "markersize": 7, "capsize": 3}
        label = label if kind not in labelled else None
        axes.errorbar(x, share.mean(), yerr=bar, fmt=marker, linewidth=1.2, label=label, **look)
        labelled.add(kind)
        text, at = f"{size.replace('x', ' x ')} {draws}".strip(), (x, float(share.mean()) + bar)
        offset: Any = {"xytext": (0, 5), "textcoords": "offset points", "rotation": 90, "ha": "center", "va": "bottom"}
        axes.annotate(text, at, fontsize=8, color="0.25", **offset)
    axes.set(xscale="log", xlabel="denoiser calls for one image", ylabel="share of right answers, fresh draws")
    axes.margins(y=0.2)
    axes.legend()
    style.save(figure, file.with_suffix(""))


def main() -> None:
    """Runs the attacks one after the other and prints a line for each."""
    parser = build_parser(__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--grid-size", type=int, default=20, help="of the purifier")
    parser.add_argument("--chunk", type=int, help="rows in a network call; by default the images: nothing is padded")
    parser.add_argument("--only", default=DEFAULT)
    parser.add_argument("--json", type=Path, help="append results here, and take existing ones from it")
    parser.add_argument("--plot", type=Path, help="draw share right against calls, as .png and .pdf")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = to_dict(complete(read_config("digits.yaml", [f"data.subset={options.images}"])))
    x, label, sample = load_subset(ImageDataModule(**config["data"]).prepare())
    classifier, denoiser = build_classifier(**config["classifier"]), build_denoiser(**config["denoiser"])
    purifier = heterogeneous(denoiser, classifier, options.grid_size)
    model = PurifiedClassifier(classifier, purifier, 10, 4, "mean_logits", options.chunk or options.images)
    images_seen = 0

    def count(_: nn.Module, arguments: tuple[Tensor, int]) -> None:
        nonlocal images_seen
        images_seen += len(arguments[0])

    denoiser.register_forward_pre_hook(count)

    @torch.no_grad()
    def strength(images: Tensor) -> tuple[Tensor, Tensor]:
        """Share of right draws of each image, and whether the mean of their logits is right."""
        n = options.draws
        draws = Draws(7, "benchmark", sample.repeat_interleave(n), torch.arange(n).repeat(len(sample)))
        logits = model.purified_logits(images, draws).unflatten(0, (len(images), n))
        right = (logits.argmax(dim=2) == label[:, None]).to(x.dtype).mean(dim=1)
        return right, (logits.mean(dim=1).argmax(dim=1) == label).to(x.dtype)

    settings = {"images": options.images, "draws": options.draws, "grid_size": options.grid_size}
    lines = options.json.read_text().splitlines() if options.json and options.json.is_file() else []
    known = {row["attack"]: row for row in map(json.loads, lines) if row["settings"] == settings}
    results: dict[str, dict[str, Any]] = {}
    share, robust = strength(x)
    print(f"clean: share right {share.mean():.3f}, accuracy {robust.mean():.3f}", flush=True)
    print(f"{'attack':24}{'calls/image':>12}{'share right':>13}{'robust':>9}{'difference':>20}{'seconds':>9}")
    for attack in options.only.split(","):
        row = known.get(attack)
        if row is None:
            name, _, size = attack.rpartition("-")
            steps, eot = (int(number) for number in size.split("x"))
            kind, _, draws = name.partition("~")
            gradient = gradient_of(draws, model, eot, steps)
            images_seen, start = 0, time.perf_counter()
            x_adv = attack_of(kind, steps)(gradient, x, label, sample)
            seconds, calls = time.perf_counter() - start, images_seen / len(x)
            share, robust = strength(x_adv)
            row = {"attack": attack, "calls": calls, "share": share.tolist(), "robust": robust.tolist()}
            row |= {"seconds": seconds, "settings": settings}
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        results[attack] = row
        share, robust = torch.tensor(row["share"]), torch.tensor(row["robust"])
        gap = share - torch.tensor(next(iter(results.values()))["share"])
        error = gap.std() / len(gap) ** 0.5
        line = f"{attack:24}{row['calls']:12.0f}{share.mean():13.3f}{robust.mean():9.3f}"
        print(f"{line}{gap.mean():+12.3f} ± {error:.3f}{row['seconds']:9.0f}", flush=True)
    if options.plot:
        caption = (
            f"Digits, heterogeneous purifier, Linf {EPS}, n = {options.images} images, {options.draws} draws each; "
            "labels: steps x EOT. Bars: standard error of the paired difference to the first attack (dashed). Attacks "
            f"of about equal calls stand side by side. python benchmarks/attacks.py --images {options.images} --plot "
            f"{options.plot.name}"
        )
        with mpl.rc_context(style.SETTINGS):
            plot(results, caption, options.plot)


if __name__ == "__main__":
    main()
