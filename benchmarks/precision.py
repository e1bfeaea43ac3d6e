"""What lower precision and torch.compile change of an evaluation: time, gradients and decisions, on the shipped pair.

    python benchmarks/precision.py --root PATH/TO/cifar10-jpeg [--images 64] [--draws 4] [--options bfloat16 compile]

Prints, for each option, the time of a prediction and of an exact gradient over those in plain float32; the cosine
between the gradients; and the share of decisions of single purifications and of whole predictions that change, over
the same images and draws. For scale, it prints the share of single decisions that other draws change.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from common import build_parser, heterogeneous, load_subset, time_ratio
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient
from hetpure.data import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models import build_classifier, build_denoiser
from hetpure.models.precision import Precision, allow_tf32, prepared_classifier, prepared_denoiser
from hetpure.noise import defense_draws


def main() -> None:
    """Measures and prints."""
    parser = build_parser(__doc__)
    parser.add_argument("--root", help="of the CIFAR-10 (JPEG) images; by default the hub's")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", nargs="+", default=["bfloat16", "compile"], help="of bfloat16, tf32, compile")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = ImageDataModule("hfds/uoft-cs/cifar10", arguments.root, subset=arguments.images).prepare()
    x, label, index = (part.to(device) for part in load_subset(data))
    denoiser = build_denoiser("checkpoints/cifar10_lab/denoiser")
    classifier = build_classifier(
        "cifar_resnet20",
        "checkpoints/cifar10_lab/classifier/model.safetensors",
        arguments={"num_classes": 10, "widths": [32, 64, 128]},
        mean=[0.4914, 0.4822, 0.4465],
        std=[0.247, 0.2435, 0.2616],
    )

    def defense(precision: Precision, compiled: bool) -> PurifiedClassifier:
        own = prepared_classifier(copy.deepcopy(classifier), precision, compiled)
        inner = prepared_denoiser(copy.deepcopy(denoiser), precision, compiled)
        model = PurifiedClassifier(own, heterogeneous(inner, own, 20), 10, arguments.draws, chunk_size=arguments.chunk)
        return model.to(device)

    few = arguments.chunk
    draws, one_draw = defense_draws(0, index, arguments.draws), defense_draws(0, index[:few], 1)

    @torch.no_grad()
    def predict(model: PurifiedClassifier) -> Tensor:
        return model.purified_logits(x[:few], one_draw).cpu()

    def gradient(model: PurifiedClassifier) -> Tensor:
        return ExactGradient(model, 1, 0)(x[:few], label[:few], index[:few], 0).value.cpu()

    def in_precision(precision: Precision, compute: Callable[[Any], Tensor], model: PurifiedClassifier) -> Tensor:
        allow_tf32(precision)
        return compute(model)

    plain = defense("float32", False)
    allow_tf32("float32")
    print(
        f"{len(x)} images, {arguments.draws} draws, chunks of {few}, {torch.get_num_threads()} threads, {device.type}"
    )
    with torch.no_grad():
        before = plain.purified_logits(x, draws)
        other = plain.purified_logits(x, defense_draws(1, index, arguments.draws))
    print(f"other draws change {_changed(before, other):.1f} % of single decisions")
    reference = gradient(plain)
    for option in arguments.options:
        precision: Precision = "float32" if option == "compile" else option
        allow_tf32(precision)
        changed = defense(precision, option == "compile")
        start = time.perf_counter()
        with torch.no_grad():
            after = changed.purified_logits(x, draws)
        cosine = torch.nn.functional.cosine_similarity(gradient(changed).flatten(1), reference.flatten(1))
        first = time.perf_counter() - start
        single = _changed(before, after)
        joined = _changed(*(y.unflatten(0, (len(x), -1)).mean(dim=1) for y in (before, after)))
        prediction, exact = (
            time_ratio(
                lambda: in_precision(precision, compute, changed),  # noqa: B023
                lambda: in_precision("float32", compute, plain),  # noqa: B023
                arguments.rounds,
            )[0]
            for compute in (predict, gradient)
        )
        print(
            f"{option}: prediction {prediction:.2f}, gradient {exact:.2f} of float32's time (first {first:.0f} s); "
            f"gradients' cosine {float(cosine.mean()):.4f} (least {float(cosine.min()):.4f}); {single:.2f} % of single "
            f"decisions and {joined:.2f} % of predictions change"
        )


def _changed(a: Tensor, b: Tensor) -> float:
    return 100 * float((a.argmax(dim=1) != b.argmax(dim=1)).double().mean())


if __name__ == "__main__":
    main()
