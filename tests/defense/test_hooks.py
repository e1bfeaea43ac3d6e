from typing import Any

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import Guarded
from hetpure.defense.hooks import after_calls, networks
from hetpure.models.denoisers import Recomputed
from hetpure.purification.pixeldefend import PixelDefendPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.purification.networks import ToyPixelCNN
from tests.toys import ToyDenoiser, images, rows, tiny_classifier


def calls_of(process: PurifiedClassifier, work: Any) -> list[str]:
    """Names of the classes of the networks that a piece of work calls."""
    calls: list[str] = []
    with after_calls(networks([process, process]), lambda module, *_: calls.append(type(module).__name__)):
        work()
    count = len(calls)
    work()
    assert len(calls) == count, "no hook stays behind"
    return calls


def test_every_network_of_a_process_is_watched_once() -> None:
    denoiser = Recomputed(Guarded(ToyDenoiser()))
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(denoiser, 0.1, 20), 10, 1, chunk_size=2)
    assert calls_of(process, lambda: process(images(2))) == ["ToyDenoiser"] * 2 + ["Classifier"]


def test_a_purifiers_own_network_is_watched() -> None:
    process = PurifiedClassifier(tiny_classifier(), PixelDefendPurifier(ToyPixelCNN(), shape=[1, 2, 2]), 10)
    assert calls_of(process, lambda: process.purifier(images(2, 1)[..., :2, :2], rows(2))) == ["ToyPixelCNN"] * 4


def test_recomputed_calls_in_the_backward_pass_are_seen() -> None:
    denoiser = Recomputed(Guarded(ToyDenoiser()))
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(denoiser, 0.1, 20), 10, 1, chunk_size=2)
    calls = calls_of(process, lambda: process(images(2).requires_grad_()).sum().backward())
    assert calls == ["ToyDenoiser"] * 2 + ["Classifier"] + ["ToyDenoiser"] * 2
