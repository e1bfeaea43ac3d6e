"""AutoAttack ``standard``, this project's and the published one, on the network that the published package ships.

    python benchmarks/autoattack.py --root PATH/TO/cifar10-jpeg --eps 0.5/255 --images 32

The network is ``pyautoattack``'s ``examples/model_test.pt``, a ResNet-18 for CIFAR-10, undefended and so without
randomness. Both attacks are run whole (100 iterations, 9 targets, FAB, Square with 5,000 queries) on the same images;
each adversarial image is then classified once more. Printed are accuracies, and the samples on which the two differ.
Results in ``--json`` are kept and not computed again, so that ``--only`` may run each in a process of its own. Needs
the extra ``autoattack``.
"""

import json
import time
from pathlib import Path

import torch
from common import build_parser, load_subset
from torch import Tensor

from hetpure.attacks.autoattack import AutoAttack, ReferenceAutoAttack, published
from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import ExactGradient
from hetpure.data.datamodule import ImageDataModule
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
    """Runs both attacks and prints which images each leaves right."""
    parser = build_parser(__doc__)
    parser.add_argument("--root", required=True, help="CIFAR-10 in hub layout")
    parser.add_argument("--name", default="hfds/uoft-cs/cifar10")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--eps", type=_number, default=1 / 255, help="a number or a fraction, such as 0.5/255")
    parser.add_argument("--chunk", type=int, default=8, help="rows in a network call of ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("ours", "published"), help="one of the two")
    parser.add_argument("--json", type=Path, help="append results here, and take existing ones from it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = ImageDataModule(name=options.name, root=options.root, subset=options.images).prepare()
    x, label, sample = load_subset(data)
    model = PurifiedClassifier(shipped_network(), NoPurifier(), 10, chunk_size=options.chunk)

    @torch.no_grad()
    def is_right(images: Tensor) -> Tensor:
        return model.classifier(images).argmax(dim=1) == label

    right_when_clean = int(is_right(x).sum())
    print(f"{len(x)} images, Linf eps {options.eps * 255:g}/255; right when clean: {right_when_clean}", flush=True)
    attacks: dict[str, Attack] = {
        "ours": AutoAttack("Linf", options.eps, "standard"),
        "published": ReferenceAutoAttack("Linf", options.eps, "standard", together=options.images),
    }
    settings = {"eps": options.eps, "sample": sample.tolist()}
    lines = options.json.read_text().splitlines() if options.json and options.json.is_file() else []
    right = {row["attack"]: torch.tensor(row["right"]) for row in map(json.loads, lines) if row["settings"] == settings}
    for name, attack in attacks.items():
        if name in right or options.only not in (None, name):
            continue
        start = time.perf_counter()
        x_adv = attack(ExactGradient(model, 1, seed=0), x, label, sample)
        seconds = time.perf_counter() - start
        right[name] = is_right(x_adv)
        print(f"{name}: at most {(x_adv - x).abs().max() * 255:.4f}/255 away, {seconds:.0f} s", flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps({"attack": name, "settings": settings, "right": right[name].tolist()}) + "\n")
    for name, of_images in right.items():
        print(f"{name}: {int(of_images.sum())} of {len(x)} right")
    if len(right) == len(attacks):
        ours, theirs = (right[name] for name in attacks)
        print(f"agree on {int((ours == theirs).sum())} of {len(x)}")
        print(f"broken by the published one only: {sample[ours & ~theirs].tolist()}")
        print(f"broken by ours only: {sample[theirs & ~ours].tolist()}")


def _number(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return float(numerator) / float(denominator or 1)


if __name__ == "__main__":
    main()
