import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hetpure.attacks.apgd import APGD
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.modes import BlindGradient, BPDAGradient, KnownDrawsGradient, MaskAwareGradient
from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import GRADIENTS, build_gradient
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Recomputed
from hetpure.noise import Draws, attack_draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images, rows

LABEL, SAMPLE = torch.tensor([3, 7]), torch.tensor([12, 40])
SETTINGS = {"grid_size": 20, "tau": 0.7, "blocks": ["block1", "block2"], "t_small": 0.05, "eta": 1.0}
PER_MODE = {"mask_aware": {"temperature": 0.2, "forward": "soft"}}


def defense(denoiser, classifier, chunk_size: int = 4, mode: str = "mean_logits", **changes) -> PurifiedClassifier:
    purifier = HeterogeneousPurifier(denoiser, classifier, **{**SETTINGS, **changes})
    return PurifiedClassifier(classifier, purifier, 10, 3, mode, chunk_size, seed=5)  # pyright: ignore


def slope(loss_at, x: Tensor, direction: Tensor, h: float = 1e-5) -> Tensor:
    """Central difference of per-image losses along a direction."""
    return (loss_at(x + h * direction) - loss_at(x - h * direction)) / (2 * h)


def assert_is_slope(loss_at, value: Tensor, x: Tensor) -> None:
    """Along three random directions, relative error below 1e-5."""
    torch.manual_seed(0)
    found, expected = [], []
    for _ in range(3):
        direction = torch.randn_like(x)
        expected.append(slope(loss_at, x, direction))
        found.append((value * direction).flatten(1).sum(1))
    a, b = torch.stack(found), torch.stack(expected)
    assert (b.norm(dim=0) > 1e-3).all(), "the loss hardly depends on the image: nothing was tested"
    assert ((a - b).norm(dim=0) / b.norm(dim=0)).max() < 1e-5


# ---- BPDA


def test_bpda_is_the_classifiers_gradient_at_the_purified_image(denoiser64, classifier64) -> None:
    process = defense(denoiser64, classifier64)
    x = images(2, dtype=torch.float64)
    found = BPDAGradient(process, 2, 0)(x, LABEL, SAMPLE, 1)
    draws = attack_draws(0, SAMPLE, 1, 2)
    purified = process.purified_images(x, draws).requires_grad_()
    losses = functional.cross_entropy(classifier64(purified), LABEL.repeat_interleave(2), reduction="none")
    (expected,) = torch.autograd.grad(losses.sum(), purified)
    torch.testing.assert_close(found.value, expected.unflatten(0, (2, 2)).mean(1))
    torch.testing.assert_close(found.loss, losses.detach().unflatten(0, (2, 2)).mean(1))
    assert torch.equal(found.loss, ExactGradient(process, 2, 0)(x, LABEL, SAMPLE, 1).loss)


# ---- blind


def test_blind_is_the_bare_classifiers_gradient(denoiser64, classifier64) -> None:
    source = BlindGradient(defense(denoiser64, classifier64), 20, 0)
    assert source.eot == 1 and not source.stochastic
    x = images(2, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(classifier64(x), LABEL, reduction="sum"), x)
    torch.testing.assert_close(source(x, LABEL, SAMPLE, 3).value, expected)


# ---- deterministic


@pytest.mark.parametrize("mode", ["mean_logits", "mean_probs"])
@pytest.mark.parametrize("chunk_size", [2, 64])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_known_draws_give_the_gradient_of_the_defenses_own_prediction(
    denoiser64, classifier64, mode: str, chunk_size: int, loss: str
) -> None:
    process = defense(Recomputed(denoiser64), classifier64, chunk_size, mode, eta=0.0, resampling="none")
    source = KnownDrawsGradient(process, 20, seed=0)
    x = images(2, dtype=torch.float64)

    def joined(at: Tensor) -> Tensor:
        scores = process(at, SAMPLE)
        return LOSSES[loss](scores if mode == "mean_logits" else scores.log(), LABEL)

    with torch.no_grad():
        found = source(x, LABEL, SAMPLE, 7, LOSSES[loss])
        torch.testing.assert_close(found.loss, joined(x))
        assert_is_slope(joined, found.value, x)
        assert torch.equal(found.value, source(x, LABEL, SAMPLE, 8, LOSSES[loss]).value), "draws are fixed"
        torch.testing.assert_close(source.logits(x, SAMPLE, 0).softmax(1), source.scores(x, SAMPLE, 9).softmax(1))
    right = process(x, SAMPLE).argmax(1)
    assert source(x, right, SAMPLE, 0).correct.tolist() == [1.0, 1.0]
    assert source.evaluate(x, right, SAMPLE, 5).correct.tolist() == [1.0, 1.0]
    assert source.evaluate(x, (right + 1) % 10, SAMPLE, 5).correct.tolist() == [0.0, 0.0]
    assert source.eot == 1 and not source.stochastic
    assert source.purifications == 3, "of the defense's one prediction"


def test_known_draws_of_a_vote_decide_as_the_defense_does(denoiser, classifier) -> None:
    process = defense(denoiser, classifier, mode="vote")
    source = KnownDrawsGradient(process, 1, 0)
    x = images(6)
    label, sample = torch.arange(6), torch.arange(6)
    right = (process(x, sample).argmax(1) == label).float()
    assert torch.equal(source(x, label, sample, 0).correct, right)
    assert torch.equal(source.evaluate(x, label, sample, 1).correct, right)
    assert (source(x, label, sample, 0).value.flatten(1).norm(dim=1) > 0).all()


# ---- mask-aware


@pytest.mark.parametrize(
    "selection", [{}, {"selection": "top_fraction", "top_fraction": 0.2}, {"order": "paper", "resampling": "single"}]
)
def test_the_soft_masks_gradient_is_the_losss_finite_difference(denoiser64, classifier64, selection: dict) -> None:
    process = defense(Recomputed(denoiser64), classifier64, **selection)
    source = MaskAwareGradient(process, 2, 0, temperature=0.2, forward="soft")
    x = images(2, dtype=torch.float64)
    found = source(x, LABEL, SAMPLE, 1).value
    assert_is_slope(lambda at: source(at, LABEL, SAMPLE, 1).loss, found, x)
    exact = ExactGradient(process, 2, 0)(x, LABEL, SAMPLE, 1).value
    assert (found - exact).norm() > 1e-3 * exact.norm(), "the mask's own gradient is missing"


@pytest.mark.parametrize("selection", [{}, {"selection": "top_fraction", "top_fraction": 0.2}])
def test_cold_masks_purify_as_hard_ones(denoiser64, classifier64, selection: dict) -> None:
    purifier = defense(denoiser64, classifier64, **selection).purifier
    assert isinstance(purifier, HeterogeneousPurifier)
    x, draws = images(4, dtype=torch.float64), rows(4)
    hard = purifier(x, draws)
    gaps = []
    for temperature in (0.1, 0.01, 1e-6):
        aware = MaskAwareGradient(PurifiedClassifier(purifier.mask.classifier, purifier, 10), 1, 0, temperature, "soft")
        gaps.append((aware.process.purifier(x, draws) - hard).abs().max().item())
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-12


@pytest.mark.parametrize("fraction", [0.001, 1.0])
def test_top_fractions_of_nothing_and_of_everything(denoiser64, classifier64, fraction: float) -> None:
    purifier = defense(denoiser64, classifier64, selection="top_fraction", top_fraction=fraction).purifier
    x = images(2, dtype=torch.float64).requires_grad_()
    soft = purifier.mask.relaxed(x, 0.1, "soft")  # pyright: ignore
    assert torch.equal(soft, torch.full_like(soft, 1.0 if fraction == 1.0 else 0.0))
    (gradient,) = torch.autograd.grad(soft.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_hard_masks_purify_as_the_defense_and_pass_the_soft_ones_gradient(denoiser64, classifier64) -> None:
    process = defense(denoiser64, classifier64)
    x = images(2, dtype=torch.float64)
    hard, exact = MaskAwareGradient(process, 2, 0, 0.2), ExactGradient(process, 2, 0)
    a, b = hard(x, LABEL, SAMPLE, 1), exact(x, LABEL, SAMPLE, 1)
    assert torch.equal(a.loss, b.loss) and torch.equal(a.correct, b.correct)
    assert (a.value - b.value).norm() > 1e-3 * b.value.norm()
    mask = process.purifier.mask  # pyright: ignore
    at = x.clone().requires_grad_()
    weight = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((mask.relaxed(at, 0.2, forward) * weight).sum(), at)[0] for forward in ("soft", "hard")
    ]
    torch.testing.assert_close(*gradients)


# ---- all of them


@pytest.fixture(scope="module")
def process(denoiser, classifier) -> PurifiedClassifier:
    return defense(Recomputed(denoiser), classifier, chunk_size=8)


@pytest.mark.parametrize("name", GRADIENTS)
def test_batches_agree_bit_for_bit(process, name: str) -> None:
    source = build_gradient({"name": name, **PER_MODE.get(name, {})}, process, 2, 0)
    x, label, sample = images(5), torch.arange(5), torch.arange(5) * 7
    whole, tried = source(x, label, sample, 1), source.evaluate(x, label, sample, 3)
    for size in (1, 4):
        for start in range(0, 5, size):
            part = slice(start, start + size)
            found = source(x[part], label[part], sample[part], 1)
            assert torch.equal(found.value, whole.value[part]) and torch.equal(found.loss, whole.loss[part])
            again = source.evaluate(x[part], label[part], sample[part], 3)
            assert torch.equal(again.correct, tried.correct[part]) and torch.equal(again.margin, tried.margin[part])


@pytest.mark.parametrize("name", GRADIENTS)
def test_recomputing_changes_nothing(denoiser, classifier, name: str) -> None:
    settings = {"name": name, **PER_MODE.get(name, {})}
    plain, recomputed = (
        build_gradient(settings, defense(d, classifier), 2, 0)(images(2), LABEL, SAMPLE, 0)
        for d in (denoiser, Recomputed(denoiser))
    )
    assert (plain.value - recomputed.value).abs().max() <= 1e-6 * plain.value.abs().max()


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("attack", [PGD("Linf", 0.1, 2, 0.05), APGD("L2", 0.4, 2, "dlr", evaluations=2)])
def test_every_attack_goes_through_every_mode(process, name: str, attack) -> None:
    source = build_gradient({"name": name, **PER_MODE.get(name, {})}, process, 2, 0)
    x, seen = images(2), []
    found = attack(source, x, LABEL, SAMPLE, lambda i, g: seen.append(g.value.flatten(1).norm(dim=1)))
    assert len(seen) == attack.steps and (torch.stack(seen) > 0).all()
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1
    assert str(source)


def test_selection_draws_are_the_same_for_every_candidate(process) -> None:
    source = ExactGradient(process, 2, 0)
    x = images(2)
    a, b = (source.evaluate(x, LABEL, SAMPLE, 4) for _ in range(2))
    assert torch.equal(a.margin, b.margin)
    draws = Draws(0, "selection", SAMPLE.repeat_interleave(4), torch.arange(4).repeat(2))
    logits = process.purified_logits(x, draws).unflatten(0, (2, 4))
    torch.testing.assert_close(source.scores(x, SAMPLE, 4), logits.mean(1))
    torch.testing.assert_close(a.correct, (logits.argmax(2) == LABEL[:, None]).float().mean(1))


@pytest.mark.parametrize(
    ("start", "arguments"),
    [
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": float("inf")}),
        ("forward", {"forward": "x"}),
    ],
)
def test_impossible_relaxations_are_refused_by_name(process, start: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{start}"):
        MaskAwareGradient(process, 1, 0, **arguments)


def test_a_purifier_without_a_mask_cannot_be_attacked_through_it(denoiser, classifier) -> None:
    for purifier in (NoPurifier(), UniformPurifier(denoiser)):
        with pytest.raises(ConfigError, match="which needs a purifier with a mask") as caught:
            MaskAwareGradient(PurifiedClassifier(classifier, purifier, 10), 1, 0)
        assert (caught.value.key, caught.value.found) == ("name", "mask_aware")


def test_a_purifier_without_a_derivative_takes_no_exact_gradient(classifier) -> None:
    class Rounding(NoPurifier):
        differentiable = False

    process = PurifiedClassifier(classifier, Rounding(), 10)
    with pytest.raises(ConfigError) as caught:
        build_gradient({"name": "exact"}, process, 1, 0)
    assert (caught.value.key, caught.value.found, caught.value.accepted) == ("name", "exact", "bpda, blind")
    assert isinstance(build_gradient({"name": "bpda"}, process, 1, 0), BPDAGradient)
