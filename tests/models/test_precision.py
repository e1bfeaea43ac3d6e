"""Networks in bfloat16, for defense and attack alike; nothing else in it."""

from pathlib import Path

import pytest
import timm
import torch
from torch._dynamo.utils import counters

from hetpure.attacks.gradients import ExactGradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.hooks import after_calls
from hetpure.models.activations import block_activations
from hetpure.models.classifiers import Classifier, is_compiled
from hetpure.models.denoisers import Recomputed
from hetpure.models.precision import (
    Lowered,
    allow_tf32,
    lowered_classifier,
    prepared_classifier,
    prepared_denoiser,
    tf32_if,
)
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs.read import read_run
from tests.evaluation import jobs
from tests.toys import images, tiny_classifier, tiny_denoiser

SETTINGS = {"grid_size": 20, "blocks": ["block1", "block2"], "tau": 0.5}


def process_of(precision, recompute: bool = False) -> PurifiedClassifier:
    denoiser = prepared_denoiser(tiny_denoiser(), precision, compiled=False)
    classifier = prepared_classifier(tiny_classifier(), precision, compiled=False)
    purifier = HeterogeneousPurifier(Recomputed(denoiser) if recompute else denoiser, classifier, **SETTINGS)
    return PurifiedClassifier(classifier, purifier, 10, ensemble_size=2, chunk_size=4)


def test_products_are_lowered_and_results_are_float32() -> None:
    """Near float32 (bfloat16 has 8 bits: 5 %), and not equal to it."""
    plain, lowered, x = tiny_denoiser(), Lowered(tiny_denoiser()), images(2)
    seen = []
    lowered.denoiser.unet.conv_in.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    found = lowered(x, 100)
    assert seen == [torch.bfloat16] and found.dtype == torch.float32
    expected = plain(x, 100)
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()

    classifier, reference = prepared_classifier(tiny_classifier(), "bfloat16", False), tiny_classifier()
    assert classifier(x).dtype == torch.float32
    assert 0 < (classifier(x) - reference(x)).norm() < 0.05 * reference(x).norm()
    for found, expected in zip(
        *(block_activations(c, x, ["block1", "block2"]) for c in (classifier, reference)), strict=True
    ):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() < 0.05 * expected.norm()


def test_float32_is_left_as_it_is() -> None:
    denoiser, classifier = tiny_denoiser(), tiny_classifier()
    assert prepared_denoiser(denoiser, "float32", False) is denoiser
    assert prepared_classifier(classifier, "float32", False).autocast_dtype is None
    assert torch.equal(classifier(images(2)), tiny_classifier()(images(2)))


def test_precision_is_of_the_last_preparation() -> None:
    classifier, x = tiny_classifier(), images(2)
    lowered = prepared_classifier(classifier, "bfloat16", False)(x)
    assert torch.equal(prepared_classifier(classifier, "bfloat16", False)(x), lowered)
    assert torch.equal(prepared_classifier(classifier, "float32", False)(x), tiny_classifier()(x))


def test_timms_own_feature_interface_is_lowered_too() -> None:
    network = timm.create_model("resnet10t", num_classes=10).eval()
    dtypes = []
    network.get_submodule("layer2").register_forward_hook(lambda _m, _i, out: dtypes.append(out.dtype))
    classifier = prepared_classifier(Classifier(network, [0.5] * 3, [0.2] * 3), "bfloat16", False)
    (found,) = block_activations(classifier, images(2, 3, 32), [2])
    assert dtypes == [torch.bfloat16] and found.dtype == torch.float32


def test_attack_and_defense_see_the_same_function() -> None:
    """The gradient through lowered networks, kept and recomputed, bit for bit."""
    x, label, sample = images(2), torch.tensor([1, 2]), torch.arange(2)
    kept, again = (ExactGradient(process_of("bfloat16", r), 2, 0)(x, label, sample, 0) for r in (False, True))
    assert torch.equal(kept.value, again.value) and torch.equal(kept.loss, again.loss)
    plain = ExactGradient(process_of("float32"), 2, 0)(x, label, sample, 0)
    cosine = torch.nn.functional.cosine_similarity(kept.value.flatten(1), plain.value.flatten(1))
    assert kept.value.dtype == torch.float32 and bool((cosine > 0.9).all()) and not torch.equal(kept.value, plain.value)


def test_compiling_marks_the_networks_alone() -> None:
    denoiser, classifier = tiny_denoiser(), tiny_classifier()
    assert prepared_denoiser(denoiser, "float32", True) is denoiser
    prepared_classifier(classifier, "float32", True)
    assert is_compiled(denoiser.unet) and is_compiled(classifier.network)
    # Masks look inside by hooks, which a compiled network would not call.
    found = block_activations(classifier, images(2), ["block1", "block2"])
    expected = block_activations(tiny_classifier(), images(2), ["block1", "block2"])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_a_compiled_network_meets_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are padded: each network is compiled once without and once with a gradient, whatever is asked for."""
    compile_module = torch.nn.Module.compile
    # What is compiled anew is decided before the backend; this one is quick.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_module(self, backend="eager", **options)
    )
    torch.compiler.reset()
    denoiser = prepared_denoiser(tiny_denoiser(), "float32", compiled=True)
    classifier = prepared_classifier(tiny_classifier(), "float32", compiled=True)
    model = PurifiedClassifier(classifier, UniformPurifier(denoiser, 0.1, 20), 10, ensemble_size=2, chunk_size=4)
    before = counters["stats"]["unique_graphs"]
    for count, eot in ((2, 2), (1, 2), (3, 3)):
        number = torch.arange(count)
        with torch.no_grad():
            model(images(count), number)
        ExactGradient(model, eot, 0)(images(count), number, number, 0)
        assert counters["stats"]["unique_graphs"] - before == 4


@pytest.mark.parametrize("precision,wanted", [("tf32", "tf32"), ("float32", "ieee"), ("bfloat16", "ieee")])
def test_tf32_is_a_choice(precision, wanted: str) -> None:
    allow_tf32(precision)
    if hasattr(torch.backends, "fp32_precision"):
        assert torch.backends.cudnn.conv.fp32_precision == wanted
        assert torch.backends.cuda.matmul.fp32_precision == wanted
    else:
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (wanted == "tf32")
    allow_tf32("float32")


def test_an_attackers_precision_leaves_the_defense_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The attack goes another way; clean images are judged to the same bits, and no call counts twice."""
    rows = {"ours": {"purifier": {"name": "heterogeneous", "t_large": 0.2, "t_small": 0.1, "grid_size": 20}}}
    settings = ["data.subset=3", "attack.steps=2", "attack.eot=2", "ensemble.size=2", "chunk_size=4"]
    runs = tmp_path / "float32", tmp_path / "lowered"
    assert jobs.evaluate(runs[0], rows, *settings) == 0
    assert jobs.evaluate(runs[1], rows, *settings, "attack.precision=bfloat16") == 0
    (plain,), (lowered,) = (read_run(run).methods for run in runs)
    assert [r.clean_scores for r in plain.store.read()] == [r.clean_scores for r in lowered.store.read()] != []
    assert [r.attack_loss for r in plain.records] != [r.attack_loss for r in lowered.records]
    assert lowered.rows[0].conditions.gradients == "exact, in bfloat16"
    capsys.readouterr()
    for wrong, problem in (
        (["precision=bfloat16", "attack.precision=bfloat16"], "lower than precision, which is bfloat16"),
        (["attack.precision=float32"], "attack.precision"),
    ):
        assert jobs.evaluate(tmp_path / "x", rows, *settings, *wrong) == 2
        assert problem in capsys.readouterr().err


def test_a_lowered_classifier_is_another_view_of_the_same_weights() -> None:
    classifier, x = tiny_classifier(), images(2)
    before = classifier(x)
    lowered = lowered_classifier(classifier, "bfloat16")
    calls = []
    with after_calls([classifier, lowered], lambda *_: calls.append(1)):
        assert not torch.equal(lowered(x), before) and torch.equal(classifier(x), before)
    assert len(calls) == 2 and lowered.network is classifier.network
    assert lowered_classifier(classifier, None) is classifier


def test_tf32_is_the_attacks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr("hetpure.models.precision.allow_tf32", chosen.append)
    with tf32_if(False):
        assert not chosen
    with pytest.raises(ZeroDivisionError), tf32_if(True):
        assert chosen == ["tf32"] and 1 / 0
    assert chosen == ["tf32", "float32"]
