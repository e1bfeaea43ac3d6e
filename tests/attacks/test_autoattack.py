import sys

import pytest
import torch

from hetpure.attacks.autoattack import AutoAttack, Model, ReferenceAutoAttack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.registry import complete_attack
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Recomputed
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images, tiny_classifier

REASON = "the extra is not installed: pip install 'hetpure[autoattack]'"


@pytest.fixture(scope="module")
def gradient(denoiser, classifier) -> ExactGradient:
    purifier = UniformPurifier(Recomputed(denoiser), 0.1, 20)
    return ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=8), 2, 0)


@pytest.fixture(scope="module")
def undefended() -> ExactGradient:
    return ExactGradient(PurifiedClassifier(tiny_classifier(), NoPurifier(), 10, chunk_size=8), 1, 0)


def test_rand_is_apgd_twice_and_batches_agree_bit_for_bit(gradient) -> None:
    attack = AutoAttack("Linf", 0.03, steps=2, evaluations=3)
    x, sample = images(5), torch.arange(5) * 7
    label = gradient.scores(x, sample, 3).argmax(1)
    seen: list[int] = []
    whole = attack(gradient, x, label, sample, lambda i, g: seen.append(i))
    assert seen == list(range(6)) and attack.steps == 6
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        assert torch.equal(attack(gradient, x[part], label[part], sample[part]), whole[part])
    assert (whole - x).abs().max() <= 0.03 + 1e-6
    before, after = (gradient.evaluate(z, label, sample, 3) for z in (x, whole))
    assert (after.correct <= before.correct).all()


def test_standard_breaks_what_apgd_leaves_and_does_not_depend_on_the_batch(undefended) -> None:
    pytest.importorskip("pyautoattack", reason=REASON)
    x, sample = images(12), torch.arange(12) * 7
    label = undefended.scores(x, sample, 1).argmax(1)
    attack = AutoAttack("Linf", 0.02, "standard", steps=5, targets=2, queries=10)
    seen: list[int] = []
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    whole = attack(undefended, x, label, sample, lambda i, g: seen.append(i))
    assert torch.equal(torch.random.get_rng_state(), state), "the published code seeds the global generator"
    assert seen == list(range(attack.steps))
    assert torch.equal(attack(undefended, x[4:7], label[4:7], sample[4:7]), whole[4:7])
    wrong = (label + 1) % 10  # all images are broken from the start: nothing is left for the published attacks
    assert torch.equal(attack(undefended, x, wrong, sample), x)
    robust = undefended.evaluate(whole, label, sample, 1).correct
    assert 0 < robust.sum() < 12
    assert (whole - x).abs().max() <= 0.02 + 1e-6


def test_reference_is_the_published_attack_for_each_image_by_itself(undefended) -> None:
    package = pytest.importorskip("pyautoattack", reason=REASON)
    x, sample = images(4), torch.tensor([3, 9, 4, 1])
    label = undefended.scores(x, sample, 1).argmax(1)
    attack = ReferenceAutoAttack("Linf", 0.02, "rand")
    losses: list[torch.Tensor] = []
    found = attack(undefended, x, label, sample, lambda i, g: losses.append(g.loss))
    assert len(losses) == attack.steps and (losses[1] >= losses[0]).all()
    for row in range(4):
        one = slice(row, row + 1)
        theirs = package.AutoAttack(
            undefended.process.classifier, eps=0.02, norm="Linf", seed=int(sample[row]), version="rand"
        )
        theirs.apgd.eot_iter = 1
        expected, _ = theirs.run_standard_evaluation(x[one], label[one], batch_size=1)
        torch.testing.assert_close(found[one], expected, rtol=0, atol=1e-6)


def test_the_published_code_sees_fresh_keyed_draws_and_a_gradient(gradient) -> None:
    x = images(1).requires_grad_()
    a, b = Model(gradient, torch.tensor([7])), Model(gradient, torch.tensor([7]))
    first, second = a(x), a(x)
    assert torch.equal(first, b(x)) and not torch.equal(first, second)
    (slope,) = torch.autograd.grad(first.sum(), x)
    assert slope.abs().sum() > 0


def test_without_the_extra_there_is_one_clear_line(monkeypatch) -> None:
    for module in ("fab_pt", "autoattack"):
        monkeypatch.setitem(sys.modules, f"pyautoattack.{module}", None)
    for settings in ({"name": "autoattack", "version": "standard"}, {"name": "autoattack_reference"}):
        with pytest.raises(ConfigError, match=r"^attack\..*needs the package pyautoattack: pip install"):
            complete_attack(settings)
    assert complete_attack({"name": "autoattack"})["version"] == "rand"
