import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import hetpure.noise
from hetpure.attacks.gradients import ExactGradient, GradientWrapper
from hetpure.attacks.losses import LOSSES
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser, Recomputed
from hetpure.noise import Draws
from hetpure.planning.live_bytes import LiveBytes
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import ToyDenoiser, images, tiny_classifier, tiny_unet

HETEROGENEOUS = {"grid_size": 50, "tau": 0.7, "blocks": ["block1", "block2"]}
RELEASED = {**HETEROGENEOUS, "t_small": 0.1}
PAPER = {
    **HETEROGENEOUS,
    "t_small": 0.05,
    "order": "paper",
    "resampling": "single",
    "eta": 1.0,
    "end": "clean",
    "U": 10,
}
REPAINT = {**HETEROGENEOUS, "resampling": "repaint", "U": 2, "eta": 0.5}
LABEL = torch.tensor([3, 7])
SAMPLE = torch.tensor([12, 40])


def process_of(denoiser: Denoiser, classifier, settings: dict | None, chunk_size: int = 4) -> PurifiedClassifier:
    if settings is None:
        purifier: Any = UniformPurifier(denoiser, 0.2, 50, eta=1.0)
    else:
        purifier = HeterogeneousPurifier(denoiser, classifier, **settings)
    return PurifiedClassifier(classifier, purifier, 10, chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("settings", "recompute"),
    [(None, False), (RELEASED, True), (PAPER, True), (REPAINT, False)],
    ids=["uniform", "released", "paper", "repaint"],
)
def test_the_gradient_is_the_losss_finite_difference(denoiser64, classifier64, settings, recompute: bool) -> None:
    """Through ten and more denoising steps in float64, along random directions and pixels: relative error < 1e-4.

    The hard mask is an indicator, whose derivative is zero wherever no pixel crosses it: steps are small, and the test
    makes sure that the mask stood still.
    """
    seen = Recomputed(denoiser64) if recompute else denoiser64
    process = process_of(seen, classifier64, settings)
    gradient = ExactGradient(process, eot=2, seed=0)
    x = images(2, dtype=torch.float64)
    exact = gradient(x, LABEL, SAMPLE, iteration=1).value
    masks = process.prepare(x)

    torch.manual_seed(0)
    directions = [torch.randn_like(x) for _ in range(2)]
    for pixel in (0, 27):
        one = torch.zeros(2, 64, dtype=torch.float64)
        one[:, pixel] = 1.0
        directions.append(one.view_as(x))
    h = 1e-5
    found, expected = [], []
    for direction in directions:
        losses = []
        for sign in (1, -1):
            moved = x + sign * h * direction
            assert all(torch.equal(a, b) for a, b in zip(masks, process.prepare(moved), strict=True))
            losses.append(gradient(moved, LABEL, SAMPLE, iteration=1).loss)
        expected.append((losses[0] - losses[1]) / (2 * h))
        found.append((exact * direction).flatten(1).sum(1))
    a, b = torch.stack(found), torch.stack(expected)
    assert (b.norm(dim=0) > 1e-3).all(), "the loss hardly depends on the image: nothing was tested"
    error = ((a - b).norm(dim=0) / b.norm(dim=0)).max().item()
    assert error < 1e-4


@pytest.mark.parametrize("settings", [None, RELEASED, PAPER], ids=["uniform", "released", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recomputing_changes_nothing(request, settings, dtype: torch.dtype) -> None:
    suffix = "64" if dtype == torch.float64 else ""
    denoiser, classifier = (request.getfixturevalue(f"{name}{suffix}") for name in ("denoiser", "classifier"))
    x = images(2, dtype=dtype)
    plain, recomputed = (
        ExactGradient(process_of(d, classifier, settings), 2, 0)(x, LABEL, SAMPLE, 0)
        for d in (denoiser, Recomputed(denoiser))
    )
    assert (plain.value - recomputed.value).abs().max() <= 1e-6 * plain.value.abs().max()
    assert torch.equal(plain.loss, recomputed.loss)


def test_noise_is_replayed_in_the_backward_pass() -> None:
    """eta = 1, every network called twice at the same timestep with the same input."""

    class Remembering(ToyDenoiser):
        def __init__(self) -> None:
            super().__init__()
            self.inputs: list[tuple[int, Tensor]] = []

        def forward(self, x: Tensor, t: int) -> Tensor:
            self.inputs.append((t, x.detach().clone()))
            return super().forward(x, t)

    toy = Remembering()
    x = images(1).requires_grad_()
    UniformPurifier(Recomputed(toy), 0.2, 50, eta=1.0)(
        x, Draws(0, "attack", torch.tensor([3]), torch.tensor([1]))
    ).sum().backward()
    forward, backward = toy.inputs[:10], toy.inputs[10:]
    assert len(backward) == 10
    for (t, a), (u, b) in zip(forward, reversed(backward), strict=True):
        assert t == u and torch.equal(a, b)


@pytest.mark.parametrize("settings", [None, RELEASED], ids=["uniform", "released"])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 64])
def test_eot_is_the_mean_over_a_naive_loop(denoiser64, classifier64, settings, chunk_size: int) -> None:
    x, eot, iteration, seed = images(2, dtype=torch.float64), 3, 5, 9
    process = process_of(denoiser64, classifier64, settings, chunk_size)
    found = ExactGradient(process, eot, seed)(x, LABEL, SAMPLE, iteration)
    for i in range(2):
        gradients, losses, hits = [], [], []
        for k in range(eot):
            row = x[i : i + 1].clone().requires_grad_()
            draws = Draws(seed, "attack", SAMPLE[i : i + 1], torch.tensor([iteration * eot + k]))
            logits = classifier64(process.purifier(row, draws))
            loss = functional.cross_entropy(logits, LABEL[i : i + 1])
            gradients.append(torch.autograd.grad(loss, row)[0][0])
            losses.append(loss.item())
            hits.append(float(logits.argmax() == LABEL[i]))
        torch.testing.assert_close(found.value[i], torch.stack(gradients).mean(0), rtol=1e-8, atol=1e-10)
        assert found.loss[i].item() == pytest.approx(sum(losses) / eot, rel=1e-10)
        assert found.correct[i].item() == pytest.approx(sum(hits) / eot)


def test_chunk_sizes_agree_to_1e_4_on_a_gradient(denoiser, classifier) -> None:
    x = images(2)
    values = [
        ExactGradient(process_of(Recomputed(denoiser), classifier, RELEASED, size), 4, 0)(x, LABEL, SAMPLE, 0).value
        for size in (64, 1, 3, 8)
    ]
    for other in values[1:]:
        assert (other - values[0]).norm() <= 1e-4 * values[0].norm()


def test_batches_of_1_4_and_16_agree_bit_for_bit(denoiser, classifier) -> None:
    gradient = ExactGradient(
        process_of(Recomputed(denoiser), classifier, {**RELEASED, "grid_size": 10, "t_small": 0.05}, 8), 3, 0
    )
    x, label, sample = images(16), torch.arange(16) % 10, torch.arange(16) * 5
    whole = gradient(x, label, sample, 2)
    for size in (1, 4):
        for start in range(0, 16, size):
            part = slice(start, start + size)
            found = gradient(x[part], label[part], sample[part], 2)
            assert torch.equal(found.value, whole.value[part])
            assert torch.equal(found.loss, whole.loss[part])


def test_networks_get_no_gradient(denoiser, classifier) -> None:
    process = process_of(denoiser, classifier, RELEASED)
    ExactGradient(process, 2, 0)(images(2), LABEL, SAMPLE, 0)
    parameters = list(process.parameters())
    assert len(parameters) > 20
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


def test_results_carry_no_graph_and_the_callers_grad_mode_does_not_matter(denoiser, classifier) -> None:
    gradient = ExactGradient(process_of(denoiser, classifier, RELEASED), 2, 0)
    x = images(2).requires_grad_()
    found = gradient(x, LABEL, SAMPLE, 0)
    with torch.no_grad():
        again = gradient(x, LABEL, SAMPLE, 0)
    assert torch.equal(found.value, again.value) and x.grad is None
    assert not any(t.requires_grad for t in (found.value, found.loss, found.correct))


def test_a_process_that_is_not_stochastic_needs_one_draw(classifier64) -> None:
    gradient = ExactGradient(PurifiedClassifier(classifier64, NoPurifier(), 10, chunk_size=4), 20, 0)
    assert gradient.eot == 1
    x = images(2, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(classifier64(x), LABEL, reduction="sum"), x)
    torch.testing.assert_close(gradient(x, LABEL, SAMPLE, 0).value, expected)


def test_the_attacker_never_draws_a_number_of_the_defenders(denoiser, classifier, monkeypatch) -> None:
    """All noise of an attack of three iterations and of the defense, on the same samples with the same seed."""
    drawn: dict[str, list[Tensor]] = {"attack": [], "defense": []}
    normal = hetpure.noise.Draws.normal

    def remember(self: Draws, *args: Any, **kwargs: Any) -> Tensor:
        out = normal(self, *args, **kwargs)
        drawn[self.process].append(out.flatten())
        return out

    monkeypatch.setattr(hetpure.noise.Draws, "normal", remember)
    process = process_of(denoiser, classifier, {**RELEASED, "eta": 1.0})
    gradient = ExactGradient(process, 3, seed=0)
    for iteration in range(3):
        gradient(images(2), LABEL, SAMPLE, iteration)
    assert not drawn["defense"]
    process(images(2), SAMPLE)
    # Float32 numbers of independent draws may meet by chance; rows of 64 of them do not.
    attack = {tuple(row) for part in drawn["attack"] for row in part.view(-1, 64).tolist()}
    defense = {tuple(row) for part in drawn["defense"] for row in part.view(-1, 64).tolist()}
    assert len(attack) > 100 and len(defense) > 100
    assert not attack & defense


def test_eot_below_1_is_refused(denoiser, classifier) -> None:
    with pytest.raises(ConfigError) as caught:
        ExactGradient(process_of(denoiser, classifier, RELEASED), 0, 0)
    assert (caught.value.key, caught.value.found) == ("eot", 0)


def test_a_wrapper_is_the_gradient_source_but_for_what_it_overrides(denoiser, classifier) -> None:
    class Doubled(GradientWrapper):
        def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
            return 2 * self.source.scores(x, sample, count)

    source = ExactGradient(process_of(denoiser, classifier, None), 2, 5)
    wrapper, x = Doubled(source), images(2)
    assert (wrapper.seed, wrapper.eot, wrapper.stochastic, source.purifications) == (5, 2, True, 2)
    assert torch.equal(wrapper(x, LABEL, SAMPLE, 1).value, source(x, LABEL, SAMPLE, 1).value)
    dlr = LOSSES["dlr"]
    assert torch.equal(wrapper(x, LABEL, SAMPLE, 1, dlr).loss, source(x, LABEL, SAMPLE, 1, dlr).loss)
    assert torch.equal(wrapper.evaluate(x, LABEL, SAMPLE, 3).margin, source.evaluate(x, LABEL, SAMPLE, 3).margin)
    assert torch.equal(wrapper.logits(x, SAMPLE, 4), source.logits(x, SAMPLE, 4))
    assert torch.equal(wrapper.scores(x, SAMPLE, 3), 2 * source.scores(x, SAMPLE, 3))
    assert torch.equal(GradientWrapper(source).scores(x, SAMPLE, 3), source.scores(x, SAMPLE, 3))
    own = ExactGradient(PurifiedClassifier(tiny_classifier(), NoPurifier(), 10), 1, 0)
    Doubled(own).to(torch.device("meta"))
    assert own.process.device.type == "meta"


# ---- memory


def peak_of_a_gradient(denoiser: Denoiser, classifier, steps: int, settings: dict | None) -> int:
    if settings is None:
        purifier: Any = UniformPurifier(denoiser, 0.2, steps, eta=1.0)
    else:
        purifier = HeterogeneousPurifier(denoiser, classifier, **{**settings, "grid_size": steps})
    gradient = ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=1), 1, 0)
    x = images(1)
    gc.collect()
    with LiveBytes() as counted:
        gradient(x, LABEL[:1], SAMPLE[:1], 0)
    return counted.peak


# Grids of 5 and of 100 network calls.
FEW, MANY = 25, 500


@pytest.mark.slow
@pytest.mark.parametrize("settings", [None, RELEASED], ids=["uniform", "released"])
def test_memory_of_a_gradient_is_flat_in_the_number_of_steps(classifier, settings, monkeypatch) -> None:
    """100 steps take at most 1.3 times the memory of 5; keeping the graph takes many times as much."""
    # Shelves of one image each: what is reserved and not written yet would hide what is alive.
    monkeypatch.setattr("hetpure.models.denoisers.SHELF_BYTES", 1)
    unet = DiffusersDenoiser(tiny_unet(width=16))
    recomputed = Recomputed(unet)
    few, many = (peak_of_a_gradient(recomputed, classifier, steps, settings) for steps in (FEW, MANY))
    assert many <= 1.3 * few
    kept_few, kept_many = (peak_of_a_gradient(unet, classifier, steps, settings) for steps in (FEW, MANY))
    assert kept_many > 8 * kept_few, "the measurement cannot tell"
    assert few < 1.1 * kept_few
