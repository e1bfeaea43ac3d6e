"""Strength against network calls: PGD+EOT, APGD+EOT and momentum PGD on the digits that ship with the project.

    python benchmarks/attacks.py --images 16 --only pgd-50x4,momentum-200x4

Strength is measured by an independent evaluation: each adversarial image goes through the defense ``--draws`` times
with draws that no attack has seen. Printed are the mean share of right answers, the share of images that the mean
logits of these draws get right (robust accuracy), and the difference of shares to the first attack listed, paired image
by image, with its standard error. Calls are images that the denoiser sees, for one image attacked: selection, checks
and padding included; a call with a gradient and one without count alike. ``--only`` names NAME[:LOSS]-STEPSxEOT.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from hetpure.attacks.apgd import APGD
from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.config import read_config, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws

DEFAULT = "pgd-200x20,pgd-200x4,pgd-100x8,pgd-40x20,apgd-100x8,apgd-50x16,momentum-200x4,momentum-100x8"
EPS = 0.15


class Counted(Denoiser):
    """A denoiser that counts the images it sees."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.count = denoiser, 0
        self.channels, self.image_size, self.multiple = denoiser.channels, denoiser.image_size, denoiser.multiple

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        """See ``Denoiser``."""
        self.count += len(x)
        return self.denoiser.predict_noise(x, t)


def attack_of(name: str, steps: int) -> Attack:
    """An attack by its benchmark name: ``pgd``, ``apgd``, ``momentum``, each perhaps with ``:loss``."""
    kind, _, loss = name.partition(":")
    chosen: Any = {"loss": loss} if loss else {}
    if kind == "pgd":
        return PGD("Linf", EPS, steps, 0.02, **chosen)
    return (APGD if kind == "apgd" else MomentumPGD)("Linf", EPS, steps, **chosen)


def main() -> None:
    """Runs the attacks one after the other and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of the purifier's grid")
    parser.add_argument("--chunk", type=int, help="rows in a network call; by default the images: nothing is padded")
    parser.add_argument("--only", default=DEFAULT)
    parser.add_argument("--json", type=Path, help="append results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    raw = read_config("demo.yaml", [f"data.subset={options.images}", f"purifier.steps={options.steps}"])
    config: DictConfig = complete({**raw, "chunk_size": options.chunk or options.images, "rows": {"heterogeneous": {}}})
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
    share, robust = strength(x)
    print(f"clean: share right {share.mean():.3f}, accuracy {robust.mean():.3f}", flush=True)
    print(f"{'attack':24}{'calls/image':>12}{'share right':>13}{'robust':>9}{'difference':>20}{'seconds':>9}")
    for spec in options.only.split(","):
        name, _, size = spec.rpartition("-")
        steps, eot = (int(number) for number in size.split("x"))
        source = ExactGradient(model, eot, seed=0)
        counted.count, began = 0, time.perf_counter()
        found = attack_of(name, steps)(source, x, label, sample)
        seconds, calls = time.perf_counter() - began, counted.count / len(x)
        share, robust = strength(found)
        first = share if first is None else first
        gap = share - first
        error = gap.std() / len(gap) ** 0.5
        line = f"{spec:24}{calls:12.0f}{share.mean():13.3f}{robust.mean():9.3f}"
        print(f"{line}{gap.mean():+12.3f} ± {error:.3f}{seconds:9.0f}", flush=True)
        if options.json:
            row = {"attack": spec, "calls": calls, "share": share.tolist(), "robust": robust.tolist()}
            with options.json.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
