"""Attacks of other libraries, each run for real; a library that is absent is skipped."""

import random

import numpy as np
import pytest
import torch

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import ATTACKS, LIBRARIES, check_attack_keys, complete_attack
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import AbsentError, ConfigError, RunError
from hetpure.models.denoisers import Recomputed
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images, tiny_classifier

EPS = 0.05
CASES = {
    "torchattacks:EOTPGD": ("Linf", {"steps": 2, "alpha": "5/255", "eot_iter": 2}),
    "torchattacks:PGDL2": ("L2", {"steps": 2, "alpha": 0.03}),
    "foolbox:LinfPGD": ("Linf", {"steps": 2}),
    "foolbox:L2DeepFoolAttack": ("L2", {"steps": 2}),
    "art:ProjectedGradientDescent": ("Linf", {"max_iter": 2, "eps_step": 0.02, "num_random_init": 1}),
    "art:BasicIterativeMethod": ("Linf", {"max_iter": 2, "eps_step": 0.02}),
}


def needs(name: str) -> None:
    prefix = name.partition(":")[0]
    pytest.importorskip(LIBRARIES[prefix], reason=f"the extra is not installed: pip install 'hetpure[{prefix}]'")


@pytest.fixture(scope="module")
def gradient(denoiser, classifier) -> ExactGradient:
    purifier = UniformPurifier(Recomputed(denoiser), 0.1, 20)
    return ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=8), 2, 0)


@pytest.mark.parametrize("name", CASES)
def test_images_are_in_the_ball_and_do_not_depend_on_the_batch(gradient, name: str) -> None:
    needs(name)
    norm, arguments = CASES[name]
    attack = ATTACKS[name](norm, EPS, arguments)
    x, sample = images(3), torch.tensor([11, 5, 300])
    label = gradient.scores(x, sample, 3).argmax(1)
    np.random.seed(3)
    random.seed(3)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    seen: list[int] = []
    whole = attack(gradient, x, label, sample, lambda i, g: seen.append(i))
    assert seen == list(range(attack.steps))
    assert torch.equal(torch.random.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.array_equal(np.random.get_state()[1], states[1])
    torch.manual_seed(99)
    for row in ([2], [0, 1]):
        assert torch.equal(attack(gradient, x[row], label[row], sample[row]), whole[row])
    distance = (whole - x).abs().amax() if norm == "Linf" else (whole - x).flatten(1).norm(dim=1).amax()
    assert 0.0 < distance <= EPS + 1e-6 and whole.min() >= 0.0 and whole.max() <= 1.0
    assert all(p.training is False for p in gradient.process.classifier.modules())
    traces = AdversarialAttack(attack, gradient).attacked(x, label, sample).traces
    assert all(len(trace.loss) == 2 for trace in traces)


def test_pgd_of_torchattacks_is_ours_to_1e_6() -> None:
    """One rounding apart: they clamp the perturbation, we clamp the image."""
    needs("torchattacks:PGD")
    gradient = ExactGradient(PurifiedClassifier(tiny_classifier(), NoPurifier(), 10, chunk_size=1), 1, 0)
    x, sample = images(4), torch.arange(4)
    label = gradient.scores(x, sample, 1).argmax(1)
    theirs = ATTACKS["torchattacks:PGD"]("Linf", EPS, {"steps": 5, "alpha": 0.02, "random_start": False})
    ours = PGD("Linf", EPS, steps=5, step_size=0.02)
    found, expected = (attack(gradient, x, label, sample) for attack in (theirs, ours))
    assert (expected - x).abs().max() > 0.9 * EPS
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


def test_a_call_draws_anew_and_averages_eot_draws(gradient) -> None:
    x, sample = images(2), torch.tensor([4, 9])
    several = gradient.logits(x, sample, 7, 3)
    single = torch.stack([gradient.logits(x, sample, call) for call in (21, 22, 23)]).mean(dim=0)
    torch.testing.assert_close(several, single, atol=1e-5, rtol=1e-5)  # the same draws in other shapes
    assert not torch.equal(several, gradient.logits(x, sample, 8, 3))


def test_an_image_outside_the_ball_is_an_error_that_names_the_attack(gradient) -> None:
    """An Linf attack that is declared as an L2 attack."""
    needs("torchattacks:PGD")
    attack = ATTACKS["torchattacks:PGD"]("L2", EPS, {"steps": 2, "alpha": 0.05})
    expected = r"torchattacks:PGD: its image of sample 6 is 0\.\d+ from the clean image in L2, and attack.eps is 0.05"
    with pytest.raises(RunError, match=expected):
        attack(gradient, images(1), torch.tensor([0]), torch.tensor([6]))


def test_an_attack_without_eps_or_steps_gets_no_verdict_on_them() -> None:
    needs("torchattacks:CW")
    attack = ATTACKS["torchattacks:CW"]("L2", 1.0, {"lr": 0.5})
    assert attack.with_eps(0.1) == attack.reaching(0.1) == {}
    assert attack.more_steps(2)["arguments"]["lr"] == 0.5
    assert ATTACKS["torchattacks:FGSM"]("Linf", 0.1).more_steps(2) == {}


def test_a_failing_library_is_one_line(gradient) -> None:
    needs("torchattacks:PGD")
    attack = ATTACKS["torchattacks:PGD"]("Linf", EPS, {"steps": "many"})
    assert attack.more_steps(2) == {}
    with pytest.raises(RunError, match=r"^attack torchattacks:PGD failed at sample 6: TypeError: [^\n]*$"):
        attack(gradient, images(1), torch.tensor([0]), torch.tensor([6]))


def test_honesty_checks_know_steps_and_eps() -> None:
    needs("art:ProjectedGradientDescent")
    attack = ATTACKS["art:ProjectedGradientDescent"]("Linf", EPS, {"eps_step": 0.01})
    assert attack.more_steps(2) == {"arguments": {"eps_step": 0.01, "max_iter": 200}}
    assert attack.with_eps(0.1) == {"eps": 0.1}
    assert attack.reaching(0.8) == {"eps": 0.8, "arguments": {"eps_step": 0.02}}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "torchattacks:EOTPGDD"}, "torchattacks defines no EOTPGDD; did you mean EOTPGD?"),
        ({"name": "foolbox:LinfPGDD"}, "did you mean LinfPGD?"),
        ({"name": "art:ProjectedGradientDescnt"}, "did you mean ProjectedGradientDescent?"),
        ({"name": "torchattacks:PGD", "stepz": 3}, "attack.stepz: unknown key"),
        ({"name": "torchattacks:PGD", "eps": 0.1}, "attack.norm: must be given"),
        ({"name": "torchattacks:PGD", "norm": "Linf"}, "attack.eps: must be given"),
        ({"name": "torchattacks:PGD", "norm": "Linf", "eps": 0.1, "arguments": {"stepz": 3}}, "did you mean steps?"),
        ({"name": "torchattacks:PGD", "norm": "Linf", "eps": 0.1, "arguments": {"eps": 3}}, "is set by attack.eps"),
        ({"name": "foolbox:L2PGD", "norm": "Linf", "eps": 0.1}, "attack.norm is 'Linf'; accepted: L2"),
        ({"name": "art:ProjectedGradientDescent", "norm": "Linf", "eps": 0.1, "arguments": {"max_iter": -1}},
         "attack.arguments: ProjectedGradientDescent refuses them"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_line(section: dict, message: str) -> None:
    needs(section["name"])
    with pytest.raises(ConfigError) as caught:
        check_attack_keys(section)
        complete_attack(section)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_absent_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AbsentError, match=r"needs foolbox: pip install 'hetpure\[foolbox\]'"):
        check_attack_keys({"name": "foolbox:LinfPGD"})
