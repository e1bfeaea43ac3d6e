"""The deviated-reconstruction loss: closed forms, finite differences, and what cannot be combined with it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hetpure.attacks.deviation import Deviation, DeviationGradient
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import complete_attack
from hetpure.attacks.selective import SelectivePGD
from hetpure.config import read_config
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError, RunError
from hetpure.evaluation.config import complete
from hetpure.evaluation.run import run
from hetpure.models.denoisers import Denoiser, Recomputed
from hetpure.noise import attack_draws
from hetpure.purification.base import Purifier, to_signed
from hetpure.purification.checks import small_images
from hetpure.purification.diffpure import DiffPureODE, DiffPureSDE
from hetpure.purification.gdmp import GuidedPurifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.lorid import LowRankIterativePurifier
from hetpure.purification.mimic import MimicPurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.trajectory import watched
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs.store import RecordStore
from tests.attacks.test_modes import assert_is_slope
from tests.purification.test_every_purifier import CASES, built
from tests.toys import LinearDenoiser, abar, images, rows

LABEL, SAMPLE = torch.tensor([3, 7]), torch.tensor([12, 40])
BLOCKS = {"blocks": ["block1", "block2"], "tau": 0.7}


def purifiers(denoiser: Denoiser, classifier) -> dict[str, Purifier]:
    shared = {"t_large": 0.2, "t_small": 0.1, "grid_size": 20, **BLOCKS}
    return {
        "uniform": UniformPurifier(denoiser, 0.2, 20, eta=1.0, end="clean"),
        "released": HeterogeneousPurifier(denoiser, classifier, **shared),
        "paper": HeterogeneousPurifier(denoiser, classifier, **shared, order="paper", resampling="single", end="clean"),
        "sde": DiffPureSDE(denoiser, 0.1, 40),
        "ode": DiffPureODE(denoiser, 0.1, 40, "heun"),
    }


NAMES = ["uniform", "released", "paper", "sde", "ode"]


def process_of(purifier: Purifier, classifier, chunk_size: int = 4) -> PurifiedClassifier:
    return PurifiedClassifier(classifier, purifier, 10, 3, "mean_logits", chunk_size, seed=5)


def states(purifier: Purifier, x: Tensor, draws) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a state and the diffused image."""
    pairs: list[tuple[Tensor, Tensor]] = []
    with watched(lambda *pair: pairs.append(pair)):
        purifier(x, draws)
    return pairs


def deviation(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(a - b).square().mean(dim=(1, 2, 3)) for a, b in pairs]).mean(dim=0)


# ---- closed forms


class TrueNoise(Denoiser):
    """Predicts the very noise that was added to one image."""

    channels = 1

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = x0

    def forward(self, x: Tensor, t: int) -> Tensor:
        return (x - abar(t) ** 0.5 * self.x0) / (1.0 - abar(t)) ** 0.5


def test_states_of_a_perfect_denoiser_do_not_deviate() -> None:
    x = images(2, dtype=torch.float64)
    pairs = states(UniformPurifier(TrueNoise(to_signed(x)), 0.2, 20, end="clean"), x, rows(2))
    assert len(pairs) == 5  # at 150, 100, 50, 0 and the clean image
    for state, diffused in pairs:
        torch.testing.assert_close(state, diffused, rtol=0, atol=1e-12)
    torch.testing.assert_close(pairs[-1][0], to_signed(x), rtol=0, atol=1e-12)


def test_the_diffused_image_has_the_noise_of_the_start() -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    pairs = states(UniformPurifier(LinearDenoiser(0.3), 0.2, 20), x, draws)
    noise = draws.normal_like(x, "diffuse", 200)
    for (_, diffused), t in zip(pairs, (150, 100, 50, 0), strict=True):
        expected = abar(t) ** 0.5 * to_signed(x) + (1.0 - abar(t)) ** 0.5 * noise
        torch.testing.assert_close(diffused, expected, rtol=0, atol=1e-12)


def test_one_step_of_a_linear_denoiser_by_hand() -> None:
    x, draws, k = images(2, dtype=torch.float64), rows(2), 0.3
    pairs = states(UniformPurifier(LinearDenoiser(k), 0.1, 10), x, draws)  # from 100 to 0
    noise = draws.normal_like(x, "diffuse", 100)
    start = abar(100) ** 0.5 * to_signed(x) + (1.0 - abar(100)) ** 0.5 * noise
    scale = (abar(0) / abar(100)) ** 0.5
    state = scale * start + ((1.0 - abar(0)) ** 0.5 - scale * (1.0 - abar(100)) ** 0.5) * k * start
    diffused = abar(0) ** 0.5 * to_signed(x) + (1.0 - abar(0)) ** 0.5 * noise
    found = Deviation()
    for each in pairs:
        found.add(*each)
    torch.testing.assert_close(found.mean(), (state - diffused).square().mean(dim=(1, 2, 3)), rtol=1e-12, atol=0)


# ---- gradients


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_slope_of_the_whole_loss(name: str, denoiser64, classifier64) -> None:
    process = process_of(purifiers(denoiser64, classifier64)[name], classifier64)
    x = 0.2 + 0.6 * images(2, dtype=torch.float64)
    source = DeviationGradient(process, 2, 0, weight=5.0)
    prepared = process.prepare(x)  # the exact gradient holds the mask
    draws, owner = attack_draws(0, SAMPLE, 1, 2), torch.tensor([0, 0, 1, 1])

    def loss_at(image: Tensor) -> Tensor:
        pairs: list[tuple[Tensor, Tensor]] = []
        with watched(lambda *pair: pairs.append(pair)):
            purified = process.purifier.purify(image[owner], draws, *(each[owner] for each in prepared))
        value = LOSSES["ce"](classifier64(purified), LABEL[owner]) + 5.0 * deviation(pairs)
        return value.detach().unflatten(0, (2, 2)).mean(dim=1)

    found = source(x, LABEL, SAMPLE, 1)
    torch.testing.assert_close(found.loss, loss_at(x))
    assert_is_slope(loss_at, found.value, x)
    plain = ExactGradient(process, 2, 0)(x, LABEL, SAMPLE, 1)
    assert (found.loss > plain.loss).all() and torch.equal(found.correct, plain.correct)
    assert not torch.allclose(found.value, plain.value)


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_is_the_same_gradient(name: str, denoiser, classifier) -> None:
    x = images(2)
    sources = [
        DeviationGradient(process_of(purifiers(each, classifier)[name], classifier), 2, 0)
        for each in (denoiser, Recomputed(denoiser))
    ]
    kept, recomputed = (source(x, LABEL, SAMPLE, 1) for source in sources)
    assert torch.equal(kept.value, recomputed.value) and torch.equal(kept.loss, recomputed.loss)


def test_rows_do_not_depend_on_the_batch(denoiser, classifier) -> None:
    source = DeviationGradient(process_of(purifiers(denoiser, classifier)["paper"], classifier), 3, 0)
    x = images(2)
    together = source(x, LABEL, SAMPLE, 1)
    alone = source(x[1:], LABEL[1:], SAMPLE[1:], 1)
    assert torch.equal(together.value[1:], alone.value) and torch.equal(together.loss[1:], alone.loss)


# ---- who has states, and what does not go together


@pytest.mark.parametrize("case", CASES)
def test_every_purifier_says_whether_it_reports_states(case: str) -> None:
    purifier = built(CASES[case])
    assert bool(states(purifier, small_images(2), rows(2))) == purifier.has_trail


@pytest.mark.parametrize("build", [GuidedPurifier, LowRankIterativePurifier, MimicPurifier])
def test_purifiers_with_steps_of_their_own_report_every_one(build, denoiser) -> None:
    arguments = {"network_calls": 2} if build is LowRankIterativePurifier else {"grid_size": 20}
    purifier = build(denoiser, t=0.1, **arguments)
    assert len(states(purifier, images(2), rows(2))) == sum(len(grid) - 1 for grid in purifier.grids)


def test_a_purifier_without_states_is_refused(classifier) -> None:
    with pytest.raises(ConfigError, match="name is 'deviation', which needs a purifier that denoises in steps"):
        DeviationGradient(process_of(NoPurifier(), classifier), 1, 0)


def test_a_purifier_that_promises_states_and_reports_none_is_named(classifier) -> None:
    class Promises(NoPurifier):
        has_trail = True

    with pytest.raises(RunError, match="the purifier reports no states"):
        DeviationGradient(process_of(Promises(), classifier), 1, 0)(images(2), LABEL, SAMPLE, 0)


def test_grafts_and_other_libraries_are_refused(denoiser, classifier) -> None:
    source = DeviationGradient(process_of(purifiers(denoiser, classifier)["uniform"], classifier), 2, 0)
    with pytest.raises(ConfigError, match=r"attack\.gradient\.name is 'deviation'; accepted: .* graft"):
        SelectivePGD(steps=2, checks=1)(source, images(2), LABEL, SAMPLE)
    with pytest.raises(ConfigError, match=r"attack\.gradient\.name is 'deviation'; accepted: .* logits"):
        source.logits(images(2), SAMPLE, 0)


@pytest.mark.parametrize("attack", [{"name": "selective"}, {"name": "autoattack", "version": "standard"}])
def test_attacks_that_see_more_than_the_loss_are_refused_at_once(attack: dict[str, str]) -> None:
    if attack["name"] == "autoattack":
        pytest.importorskip("pyautoattack")
    with pytest.raises(ConfigError, match=r"attack\.gradient\.name is 'deviation', and .* sees more"):
        complete_attack({**attack, "gradient": "deviation"})


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_the_weight_is_positive(weight: float, denoiser, classifier) -> None:
    with pytest.raises(ConfigError, match="weight"):
        DeviationGradient(process_of(purifiers(denoiser, classifier)["uniform"], classifier), 1, 0, weight)


def test_pgd_climbs_the_deviation(denoiser, classifier) -> None:
    """With a weight that drowns the classifier's loss, states stray further than under plain PGD."""
    process = process_of(purifiers(denoiser, classifier)["uniform"], classifier)
    x = images(2)

    def strays(weight: float | None) -> float:
        source = ExactGradient(process, 2, 0) if weight is None else DeviationGradient(process, 2, 0, weight)
        x_adv = PGD("Linf", 0.1, 5, 0.05)(source, x, LABEL, SAMPLE)
        return float(deviation(states(process.purifier, x_adv, rows(2))).mean())

    assert strays(1e4) > strays(None)


def test_end_to_end(tmp_path: Path) -> None:
    overrides = ["data.subset=2", "attack.steps=2", "attack.gradient.name=deviation", "attack.gradient.weight=2"]
    overrides += ["rows=null", "purifier.grid_size=10", "wandb.mode=disabled", f"output={tmp_path}", "attack.eot=2"]
    report = run(complete(read_config("digits.yaml", overrides)))
    assert report.rows[0].conditions.gradients == "exact, deviated reconstruction 2"
    assert len(RecordStore(tmp_path / "heterogeneous").read()) == 2
