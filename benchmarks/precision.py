"""What lower precision and torch.compile change of an evaluation: time, gradients and decisions, on the shipped pair.

    python -m benchmarks.precision --root PATH/TO/cifar10-jpeg [--images 64] [--draws 4] [--options bfloat16 compile]

Prints, for each option, the time of a prediction and of an exact gradient over those in plain float32 (rounds of the
two alternate, the median of their ratios counts); the cosine between the gradients; and the share of decisions of
single purifications and of whole predictions that change, over images and draws that are the same. For scale, it
prints the share of single decisions that other draws change.
"""

import argparse
import copy
import time

import torch

from benchmarks.purification import ratio
from hetpure.attacks.gradients import ExactGradient
from hetpure.data import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models import build_classifier, build_denoiser
from hetpure.models.precision import allow_tf32, prepared_classifier, prepared_denoiser
from hetpure.noise import defense_draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="of the CIFAR-10 (JPEG) images; by default the hub's")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", nargs="+", default=["bfloat16", "compile"], help="of bfloat16, tf32, compile")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = ImageDataModule("hfds/uoft-cs/cifar10", arguments.root, subset=arguments.images).prepare()
    found = [item(data.test_source, index) for index in data.indices]
    x, label, index = (
        torch.stack([torch.as_tensor(i[k]) for i in found]).to(device) for k in ("image", "label", "index")
    )
    denoiser = build_denoiser("checkpoints/cifar10_lab/denoiser")
    weights, widths = "checkpoints/cifar10_lab/classifier/model.safetensors", [32, 64, 128]
    classifier = build_classifier(
        "cifar_resnet20", weights, arguments={"num_classes": 10, "widths": widths},
        mean=[0.4914, 0.4822, 0.4465], std=[0.247, 0.2435, 0.2616],
    )  # fmt: skip

    def process(precision: str, compiled: bool) -> PurifiedClassifier:
        own = prepared_classifier(copy.deepcopy(classifier), precision, compiled)  # pyright: ignore[reportArgumentType]
        inner = prepared_denoiser(copy.deepcopy(denoiser), precision, compiled)  # pyright: ignore[reportArgumentType]
        purifier = HeterogeneousPurifier(inner, own, grid_size=20)
        defense = PurifiedClassifier(own, purifier, 10, arguments.draws, chunk_size=arguments.chunk)
        return defense.to(device)

    plain = process("float32", False)
    draws = defense_draws(0, index, arguments.draws)
    few = arguments.chunk
    print(
        f"{len(x)} images, {arguments.draws} draws, chunks of {few}, {torch.get_num_threads()} threads, {device.type}"
    )
    with torch.no_grad():
        before = plain.purified_logits(x, draws)
        other = plain.purified_logits(x, defense_draws(1, index, arguments.draws))
    print(f"other draws change {_changed(before, other):.1f} % of single decisions")
    reference = ExactGradient(plain, 1, 0)(x[:few], label[:few], index[:few], 0)
    for option in arguments.options:
        precision = "float32" if option == "compile" else option
        allow_tf32(precision)  # pyright: ignore[reportArgumentType]
        changed = process(precision, option == "compile")
        start = time.perf_counter()
        with torch.no_grad():
            after = changed.purified_logits(x, draws)
        source = ExactGradient(changed, 1, 0)
        gradient = source(x[:few], label[:few], index[:few], 0)
        first = time.perf_counter() - start
        cosine = torch.nn.functional.cosine_similarity(gradient.value.flatten(1), reference.value.flatten(1))
        single = _changed(before, after)
        joined = _changed(*(y.unflatten(0, (len(x), -1)).mean(dim=1) for y in (before, after)))

        def predict(model: PurifiedClassifier) -> None:
            allow_tf32("float32" if model is plain else precision)  # noqa: B023  # pyright: ignore[reportArgumentType]
            with torch.no_grad():
                model.purified_logits(x[:few], defense_draws(0, index[:few], 1)).cpu()

        def attack(model: PurifiedClassifier) -> None:
            allow_tf32("float32" if model is plain else precision)  # noqa: B023  # pyright: ignore[reportArgumentType]
            ExactGradient(model, 1, 0)(x[:few], label[:few], index[:few], 0).value.cpu()

        times = [
            ratio(lambda: do(changed), lambda: do(plain), arguments.rounds)[0]  # noqa: B023
            for do in (predict, attack)
        ]
        print(
            f"{option}: prediction {times[0]:.2f}, gradient {times[1]:.2f} of float32's time (first {first:.0f} s); "
            f"gradients' cosine {float(cosine.mean()):.4f} (least {float(cosine.min()):.4f}); {single:.2f} % of single "
            f"decisions and {joined:.2f} % of predictions change"
        )


def _changed(a: torch.Tensor, b: torch.Tensor) -> float:
    return 100 * float((a.argmax(dim=1) != b.argmax(dim=1)).double().mean())


if __name__ == "__main__":
    main()
