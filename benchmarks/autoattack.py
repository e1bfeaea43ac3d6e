"""AutoAttack ``standard``, this project's beside the published one, on the network that the published package ships.

    python benchmarks/autoattack.py --root PATH/TO/cifar10-jpeg --eps 0.5/255 --images 32

The network is ``pyautoattack``'s ``examples/model_test.pt``, a ResNet-18 for CIFAR-10, undefended and so without
randomness. Both attacks are run whole (100 iterations, 9 targets, FAB, Square with 5,000 queries) on the same images;
each image that comes back is then classified once more. Printed are accuracies and, sample by sample, where the two
part. Results in ``--json`` are kept and not computed again, so that ``--only`` may run each in a process of its own.
Needs the extra ``autoattack``.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from hetpure.attacks.autoattack import AutoAttack, ReferenceAutoAttack, published
from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.classifiers import Classifier
from hetpure.purification.none import NoPurifier


def shipped_network() -> Classifier:
    """The package's network, its weights read without unpickling code."""
    network = published("examples.resnet", "this benchmark").ResNet18()
    weights = Path(published("autoattack", "this benchmark").__file__).parent / "examples" / "model_test.pt"
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return Classifier(network, [0.0] * 3, [1.0] * 3).eval().requires_grad_(False)


def main() -> None:
    """Runs both attacks and prints what each left right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="CIFAR-10 in hub layout")
    parser.add_argument("--name", default="hfds/uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--eps", type=_number, default=1 / 255, help="a number or a fraction, such as 0.5/255")
    parser.add_argument("--chunk", type=int, default=8, help="rows in a network call of ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("ours", "published"), help="one of the two")
    parser.add_argument("--json", type=Path, help="append results here, and take from here what is there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ImageDataModule(name=options.name, root=options.root, subset=options.images).prepare()
    items = [item(data.test_source, index) for index in data.indices]
    x = torch.stack([one["image"] for one in items])
    label, sample = (torch.tensor([int(one[key]) for one in items]) for key in ("label", "index"))
    model = PurifiedClassifier(shipped_network(), NoPurifier(), 10, chunk_size=options.chunk)

    def right(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model.classifier(images).argmax(dim=1) == label

    clean = right(x)
    print(f"{len(x)} images, Linf eps {options.eps * 255:g}/255; right when clean: {int(clean.sum())}", flush=True)
    attacks: dict[str, Attack] = {
        "ours": AutoAttack("Linf", options.eps, "standard"),
        "published": ReferenceAutoAttack("Linf", options.eps, "standard", together=options.images),
    }
    settings = {"eps": options.eps, "sample": sample.tolist()}
    lines = options.json.read_text().splitlines() if options.json and options.json.is_file() else []
    left = {row["attack"]: torch.tensor(row["right"]) for row in map(json.loads, lines) if row["settings"] == settings}
    for name, attack in attacks.items():
        if name in left or options.only not in (None, name):
            continue
        began = time.perf_counter()
        found = attack(ExactGradient(model, 1, seed=0), x, label, sample)
        seconds = time.perf_counter() - began
        left[name] = right(found)
        print(f"{name}: at most {(found - x).abs().max() * 255:.4f}/255 away, {seconds:.0f} s", flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps({"attack": name, "settings": settings, "right": left[name].tolist()}) + "\n")
    for name, there in left.items():
        print(f"{name}: {int(there.sum())} of {len(x)} right")
    if len(left) < len(attacks):
        return
    ours, theirs = (left[name] for name in attacks)
    print(f"agree on {int((ours == theirs).sum())} of {len(x)}")
    for a, b, said in ((ours, theirs, "broken by the published one only"), (theirs, ours, "broken by ours only")):
        print(f"{said}: {sample[a & ~b].tolist()}")


def _number(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


if __name__ == "__main__":
    main()
