import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.purification.heterogeneous import (
    HeterogeneousPurifier,
    compose,
    heterogeneous_noise,
    single_resampling,
)
from hetpure.purification.registry import complete_settings
from hetpure.purification.sampling import Sampler
from hetpure.purification.uniform import UniformPurifier
from hetpure.schedule import Schedule
from tests.toys import (
    LinearDenoiser,
    QueueDraws,
    RecordingDraws,
    ToyDenoiser,
    abar,
    alpha,
    images,
    rows,
    tiny_classifier,
)

MODES = ("none", "single", "fused", "repaint")
BLOCKS = ["block1", "block2"]
SHAPE = (2, 1, 8, 8)


@pytest.fixture(scope="module")
def net() -> Classifier:
    return tiny_classifier(dtype=torch.float64)


def purifier_of(net: Classifier, denoiser=None, **settings) -> HeterogeneousPurifier:
    return HeterogeneousPurifier(denoiser or ToyDenoiser(), net, **{"blocks": BLOCKS, **settings})


def preset(name: str) -> dict:
    return dict(HeterogeneousPurifier.PRESETS[name])


def half_mask() -> Tensor:
    """1 in the left half."""
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1.0
    return mask


def signed() -> Tensor:
    return 2 * images(2, dtype=torch.float64) - 1


def diffuse(x0: Tensor, t: int, noise: Tensor) -> Tensor:
    return math.sqrt(abar(t)) * x0 + math.sqrt(1 - abar(t)) * noise


def single_steps_up(x: Tensor, t: int, noises: list[Tensor]) -> Tensor:
    """Eq. (10), one timestep after the other, from t."""
    for number, z in enumerate(noises, start=1):
        x = math.sqrt(alpha(t + number)) * x + math.sqrt(1 - alpha(t + number)) * z
    return x


def joint_noise(t: int, noises: list[Tensor]) -> Tensor:
    """The one draw that takes x(t) where ``single_steps_up`` takes it."""
    return single_steps_up(torch.zeros_like(noises[0]), t, noises) / math.sqrt(1 - abar(t + len(noises)) / abar(t))


def ddim(x: Tensor, eps: Tensor, t: int, s: int, sigma: float = 0.0, noise: Tensor | float = 0.0) -> Tensor:
    x0 = (x - math.sqrt(1 - abar(t)) * eps) / math.sqrt(abar(t))
    return math.sqrt(abar(s)) * x0 + math.sqrt(1 - abar(s) - sigma**2) * eps + sigma * noise


# ---- the orientation of the mask


def test_compose_generates_inside_and_keeps_outside() -> None:
    """Eq. (5)'s orientation; eq. (8) prints the other way round (the module's docstring says why it is wrong)."""
    mask = torch.tensor([[[[1.0, 0.0]]]])
    unknown, known = torch.tensor([[[[10.0, 20.0]]]]), torch.tensor([[[[1.0, 2.0]]]])
    assert compose(mask, unknown, known).tolist() == [[[[10.0, 2.0]]]]


def test_the_forward_process_is_eq_5() -> None:
    x0, mask, draws = signed(), half_mask(), rows(2)
    found = heterogeneous_noise(x0, mask, Schedule(), 200, 100, draws)
    noise = draws.normal_like(x0, "diffuse", 200)
    torch.testing.assert_close(found[..., :4], diffuse(x0, 200, noise)[..., :4], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[..., 4:], diffuse(x0, 100, noise)[..., 4:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("end", ["t0", "clean"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_mask_of_ones_is_plain_purification_from_t_large(net: Classifier, eta: float, end: str) -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    common = {"grid_size": 100, "eta": eta, "end": end}
    ours = purifier_of(net, t_large=0.2, t_small=0.1, order="paper", resampling="none", **common)
    plain = UniformPurifier(ToyDenoiser(), t=0.2, **common)
    found = ours.purify(x, draws, torch.ones_like(x))
    torch.testing.assert_close(found, plain(x, draws), rtol=1e-12, atol=1e-12)
    assert (found - plain(x, rows(2, seed=1))).abs().max() > 0.01


@pytest.mark.parametrize("end", ["t0", "clean"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("t_small", "first_below"), [(0.1, 0.09), (0.095, 0.09), (0.05, 0.04)])
def test_a_mask_of_zeros_is_plain_purification_from_below_t_small(
    net: Classifier, eta: float, end: str, t_small: float, first_below: float
) -> None:
    """Grid 200, 190, .., 0: stage 1 takes its last step from the last point at or above t_small."""
    x, draws = images(2, dtype=torch.float64), rows(2)
    common = {"grid_size": 100, "eta": eta, "end": end}
    ours = purifier_of(net, t_large=0.2, t_small=t_small, order="paper", resampling="none", **common)
    plain = UniformPurifier(ToyDenoiser(), t=first_below, **common)
    found = ours.purify(x, draws, torch.zeros_like(x))
    torch.testing.assert_close(found, plain(x, draws), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["paper", "released"])
def test_outside_the_mask_stage_1_keeps_the_known_values(net: Classifier, order: str) -> None:
    """In the paper's order x is composed at the timestep reached: outside, the callback sees the noised input there."""
    x0, mask, draws = signed(), half_mask(), rows(2)
    seen: dict[int, Tensor] = {}
    purifier = purifier_of(net, grid_size=100, order=order, resampling="none")
    purifier.denoise(x0, mask, draws, callback=lambda t, x: seen.update({t: x.clone()}))
    assert list(seen) == list(range(190, -1, -10))
    for s in range(190, 80, -10):
        known = diffuse(x0, s, draws.normal_like(x0, "diffuse", s))
        gap = (seen[s] - known).abs()
        assert gap[..., :4].max() > 0.05, "inside is generated"
        if order == "paper":
            assert gap[..., 4:].max() < 1e-12
    if order == "paper":
        last = diffuse(x0, 80, draws.normal_like(x0, "diffuse", 80))
        assert (seen[80] - last).abs()[..., 4:].max() > 0.01, "stage 2 no longer holds the outside"


# ---- Algorithm 1, by independent loops


def released_loop(
    x0: Tensor, mask: Tensor, grid: list[int], t_small: float, U: int, denoiser, draws: QueueDraws
) -> Tensor:
    """The released loop, straight: diffuse; while the next grid point is not below t_small, compose at t, noise U times
    from t, and take the grid's DDIM step (eta 0) from t + U; below it, plain DDIM steps.
    """
    numbers = itertools.count()
    x = diffuse(x0, grid[0], draws.noise("diffuse", 0))
    for step, (t, s) in enumerate(itertools.pairwise(grid)):
        if s >= t_small:
            x = mask * x + (1 - mask) * diffuse(x0, t, draws.noise("diffuse", 1 + step))
            x = single_steps_up(x, t, [draws.noise("single", next(numbers)) for _ in range(U)])
            t = t + U
        x = ddim(x, denoiser(x, t), t, s)
    return x


def hand_out_joint_noises(draws: QueueDraws, starts: list[int], U: int) -> None:
    for number, t in enumerate(starts):
        noises = [draws.noise("single", number * U + k) for k in range(U)]
        draws.special["resample", number] = joint_noise(t, noises)


def test_the_released_preset_is_the_released_loop(net: Classifier) -> None:
    grid = list(range(200, -1, -2))
    x0, mask, draws = signed(), half_mask(), QueueDraws(SHAPE)
    hand_out_joint_noises(draws, [t for t in grid if t - 2 >= 100], U=3)
    denoiser, theirs = ToyDenoiser(), ToyDenoiser()
    found = purifier_of(net, denoiser, **preset("released")).denoise(x0, mask, draws)  # pyright: ignore
    expected = released_loop(x0, mask, grid, 100.0, 3, theirs, draws)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert denoiser.asked == theirs.asked == [t + 3 for t in range(200, 101, -2)] + list(range(100, 0, -2))
    assert draws.count == {"diffuse": 51, "resample": 50}


def algorithm_1(x0: Tensor, mask: Tensor, t_large: int, t_small: int, U: int, denoiser, draws: QueueDraws) -> Tensor:
    """Algorithm 1 as printed, eq. (8)'s orientation mended, resampling in stage 1; t - 1 = -1 is the clean image."""
    calls = {"diffuse": itertools.count(1), "step": itertools.count(), "single": itertools.count()}

    def noise(purpose: str) -> Tensor:
        return draws.noise(purpose, next(calls[purpose]))

    x = diffuse(x0, t_large, draws.noise("diffuse", 0))
    for t in range(t_large, -1, -1):
        variance = (1 - alpha(t)) * (1 - abar(t - 1)) / (1 - abar(t))
        z = noise("step") if t > 0 else torch.zeros_like(x)
        eps = denoiser(x, t)
        mean = (x - (1 - alpha(t)) / math.sqrt(1 - abar(t)) * eps) / math.sqrt(alpha(t))
        x_unknown = mean + math.sqrt(variance) * z
        if t < t_small:
            x = x_unknown
            continue
        x_known = diffuse(x0, t - 1, noise("diffuse"))
        x = mask * x_unknown + (1 - mask) * x_known
        up = t - 1 + U
        x = single_steps_up(x, t - 1, [noise("single") for _ in range(U)])
        sigma = math.sqrt((1 - abar(t - 1)) / (1 - abar(up)) * (1 - abar(up) / abar(t - 1)))
        x = ddim(x, denoiser(x, up), up, t - 1, sigma, noise("step"))
    return x


def test_the_paper_preset_is_algorithm_1(net: Classifier) -> None:
    x0, mask, draws = signed(), half_mask(), QueueDraws(SHAPE)
    hand_out_joint_noises(draws, list(range(199, 48, -1)), U=10)
    denoiser, theirs = ToyDenoiser(), ToyDenoiser()
    found = purifier_of(net, denoiser, **preset("paper")).denoise(x0, mask, draws)  # pyright: ignore
    expected = algorithm_1(x0, mask, 200, 50, 10, theirs, draws)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert denoiser.asked == theirs.asked
    assert draws.count == {"diffuse": 152, "step": 351, "resample": 151}


def test_the_presets_numbers() -> None:
    shared = {"normalization": "minmax", "p": 2, "selection": "threshold", "t_large": 0.2}
    released, paper = (complete_settings({"name": "heterogeneous", "preset": name}) for name in ("released", "paper"))
    assert released.items() >= {
        **shared, "t_small": 0.1, "grid_size": 500, "eta": 0.0, "end": "t0", "order": "released",
        "resampling": "fused", "U": 3, "root": False, "tau": 0.9,
    }.items()  # fmt: skip
    assert paper.items() >= {
        **shared, "t_small": 0.05, "grid_size": 1000, "eta": 1.0, "end": "clean", "order": "paper",
        "resampling": "single", "U": 10, "root": True, "tau": 0.8,
    }.items()  # fmt: skip
    assert HeterogeneousPurifier.ENSEMBLE_MODES == {"released": "vote", "paper": "mean_logits"}


def test_the_defaults_are_the_released_preset(net: Classifier) -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    by_default = HeterogeneousPurifier(ToyDenoiser(), net, blocks=list(BLOCKS))
    assert torch.equal(by_default(x, draws), purifier_of(net, **preset("released"))(x, draws))
    assert (by_default.mask.p, by_default.mask.root, by_default.mask.top_fraction) == (2, False, 0.15)
    paper = purifier_of(net, **preset("paper"))
    assert paper.mask.root is True and (by_default.preset, paper.preset) == ("released", "paper")


# ---- resampling


def one_stage_1_step(net: Classifier, mode: str, order: str, k: float, eta: float, U: int) -> HeterogeneousPurifier:
    """Grid 200, 100, 0 with one step in stage 1."""
    t_small = 0.15 if order == "paper" else 0.05
    return purifier_of(
        net, LinearDenoiser(k), grid_size=10, t_small=t_small, order=order, resampling=mode, U=U, eta=eta
    )


def linear_step(k: float, t: int, s: int, eta: float) -> tuple[float, float]:
    """eps = k x: the factor on x and the noise's standard deviation of eq. (11)'s step from t to s."""
    sigma = eta * math.sqrt((1 - abar(s)) / (1 - abar(t)) * (1 - abar(t) / abar(s)))
    factor = math.sqrt(abar(s) / abar(t)) * (1 - math.sqrt(1 - abar(t)) * k) + math.sqrt(1 - abar(s) - sigma**2) * k
    return factor, sigma


class Chain:
    """Mean factor (on x0) and variance of a linear Gaussian chain from x0."""

    def __init__(self) -> None:
        self.mean, self.variance = 1.0, 0.0

    def apply(self, factor: float, deviation: float) -> "Chain":
        self.mean, self.variance = factor * self.mean, factor**2 * self.variance + deviation**2
        return self

    def noise_up(self, s: int, t: int) -> "Chain":
        for step in range(s + 1, t + 1):
            self.apply(math.sqrt(alpha(step)), math.sqrt(1 - alpha(step)))
        return self


def monte_carlo(purifier: HeterogeneousPurifier, mask_value: float, until: int) -> Tensor:
    """(N,) values of one pixel of x0 = 0.5 over independent draws, at the timestep that the callback reports."""
    side = 400
    x0 = torch.full((1, 1, side, side), 0.5, dtype=torch.float64)
    seen: dict[int, Tensor] = {}
    purifier.denoise(x0, torch.full_like(x0, mask_value), rows(1), callback=lambda t, x: seen.update({t: x}))
    return seen[until].flatten()


def assert_moments(values: Tensor, chain: Chain) -> None:
    """Within four standard errors; and those are small against what resampling changes."""
    n = len(values)
    assert values.mean().item() == pytest.approx(0.5 * chain.mean, abs=4 * math.sqrt(chain.variance / n))
    assert values.var().item() == pytest.approx(chain.variance, rel=4 * math.sqrt(2 / n))


K, U_LONG = 0.3, 40


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_single_resampling_has_the_moments_of_eqs_10_and_11(net: Classifier, eta: float, inside: float) -> None:
    """Paper's order at s = 100: x(100), U noisings to 100 + U, one step of eq. (11) back."""
    chain = Chain()
    if inside:
        chain.noise_up(-1, 200).apply(*linear_step(K, 200, 100, eta))
    else:
        chain.noise_up(-1, 100)
    before = chain.variance
    chain.noise_up(100, 100 + U_LONG).apply(*linear_step(K, 100 + U_LONG, 100, eta))
    assert abs(chain.variance / before - 1) > 0.05
    assert_moments(monte_carlo(one_stage_1_step(net, "single", "paper", K, eta, U_LONG), inside, until=100), chain)


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_single_resampling_in_the_released_order(net: Classifier, inside: float) -> None:
    """Compose at 200, resample 200 -> 200 + U -> 200, then step to 100."""
    chain = Chain().noise_up(-1, 200).noise_up(200, 200 + U_LONG)
    chain.apply(*linear_step(K, 200 + U_LONG, 200, 0.0)).apply(*linear_step(K, 200, 100, 0.0))
    assert_moments(monte_carlo(one_stage_1_step(net, "single", "released", K, 0.0, U_LONG), inside, until=100), chain)


def test_fused_resampling_has_the_moments_of_one_step_from_t_plus_u(net: Classifier) -> None:
    chain = Chain().noise_up(-1, 200 + U_LONG).apply(*linear_step(K, 200 + U_LONG, 100, 0.0))
    assert_moments(monte_carlo(one_stage_1_step(net, "fused", "released", K, 0.0, U_LONG), 1.0, until=100), chain)


def test_fused_resampling_in_the_papers_order_goes_on_from_s_plus_u(net: Classifier) -> None:
    purifier = one_stage_1_step(net, "fused", "paper", K, 0.0, U_LONG)
    chain = Chain().noise_up(-1, 100 + U_LONG)
    assert_moments(monte_carlo(purifier, 0.0, until=100 + U_LONG), chain)
    chain.apply(*linear_step(K, 100 + U_LONG, 0, 0.0))
    assert_moments(monte_carlo(purifier, 0.0, until=0), chain)


@pytest.mark.parametrize("order", ["paper", "released"])
def test_repaint_has_the_moments_of_its_loop(net: Classifier, order: str) -> None:
    """U rounds of the step 200 -> 100, diffused back to 200 in between; all pixels inside the mask."""
    chain = Chain().noise_up(-1, 200).apply(*linear_step(K, 200, 100, 0.0))
    for _ in range(2):
        chain.noise_up(100, 200).apply(*linear_step(K, 200, 100, 0.0))
    assert_moments(monte_carlo(one_stage_1_step(net, "repaint", order, K, 0.0, 3), 1.0, until=100), chain)


@pytest.mark.parametrize("order", ["paper", "released"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_repaint_of_one_round_is_no_resampling(net: Classifier, order: str, eta: float) -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    common = {"grid_size": 100, "order": order, "eta": eta, "tau": 0.5}
    once = purifier_of(net, resampling="repaint", U=1, **common)(x, draws)
    assert torch.equal(once, purifier_of(net, resampling="none", **common)(x, draws))
    assert not torch.equal(once, purifier_of(net, resampling="repaint", U=2, **common)(x, draws))


@pytest.mark.parametrize("order", ["paper", "released"])
@pytest.mark.parametrize("end", ["t0", "clean"])
@pytest.mark.parametrize(("mode", "calls_in_stage_1"), [("none", 1), ("single", 2), ("fused", 1), ("repaint", 4)])
def test_network_calls(net: Classifier, mode: str, calls_in_stage_1: int, order: str, end: str) -> None:
    """Grid 200, 180, .., 0. Steps of stage 1 start (paper) or end (released) at or above 100."""
    denoiser = ToyDenoiser()
    purifier = purifier_of(net, denoiser, grid_size=50, resampling=mode, order=order, end=end, U=4)
    purifier(images(1, dtype=torch.float64), rows(1))
    stage_1 = 6 if order == "paper" else 5
    expected = 10 + (end == "clean") + stage_1 * (calls_in_stage_1 - 1)
    assert len(denoiser.asked) == purifier.network_calls == expected


def test_the_papers_counts_of_network_calls(net: Classifier) -> None:
    released = purifier_of(net, **preset("released"))
    assert released.network_calls == 100
    assert purifier_of(net, **{**preset("released"), "grid_size": 10, "t_small": 0.1}).network_calls == 2
    assert purifier_of(net, **preset("paper")).network_calls == 201 + 151
    assert purifier_of(net, grid_size=10, order="paper", resampling="single").network_calls == 2 + 2


# ---- draws


@pytest.mark.parametrize(("mode", "order"), list(itertools.product(MODES, ("paper", "released"))))
@pytest.mark.parametrize("U", [4, 10, 20])
def test_no_draw_is_used_twice(net: Classifier, mode: str, order: str, U: int) -> None:
    """Also where noising up lands on other points of the grid, whose stride is 10."""
    draws = RecordingDraws(rows(2))
    purifier = purifier_of(net, grid_size=100, order=order, resampling=mode, U=U, eta=1.0, end="clean")
    purifier.denoise(signed(), half_mask(), draws)  # pyright: ignore
    keys = draws.keys
    if order == "released":
        # All pixels start at t_large, and the first composition asks for that same "known" once more.
        assert keys[:2] == [("diffuse", 200)] * 2
        keys = keys[1:]
    assert len(set(keys)) == len(keys)


def test_a_single_resampling_takes_its_step_back_with_the_next_rounds_noise() -> None:
    """Its keys are part of every published result."""
    draws = RecordingDraws(rows(2))
    single_resampling(Sampler(ToyDenoiser(), draws, eta=1.0), signed(), 50, U=3)  # pyright: ignore
    assert draws.keys == [("resample", 50), ("step", 1050)]


def test_equal_draws_give_equal_results_and_others_do_not(net: Classifier) -> None:
    x = images(2, dtype=torch.float64)
    purifier = purifier_of(net, **preset("released"))
    first = purifier(x, rows(2))
    assert torch.equal(first, purifier(x, rows(2)))
    for other in (rows(2, seed=1), rows(2, draw=1), rows(2, process="attack")):
        assert (purifier(x, other) - first).abs().max() > 1e-3


def test_a_row_does_not_depend_on_its_neighbours(net: Classifier) -> None:
    x = images(4, dtype=torch.float64)
    purifier = purifier_of(net, grid_size=50, tau=0.6)
    together = purifier(x, rows(4))
    for i in range(4):
        torch.testing.assert_close(purifier(x[i : i + 1], rows(4).rows(slice(i, i + 1))), together[i : i + 1])


# ---- the rest of the interface


def test_the_mask_is_prepared_from_the_image_and_conditions_the_result(net: Classifier) -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    purifier = purifier_of(net, grid_size=50, tau=0.7)
    (mask,) = purifier.prepare(x)
    assert mask.shape == (2, 1, 8, 8) and 0 < mask.mean() < 1
    assert torch.equal(mask, purifier.mask(x))
    assert torch.equal(purifier(x, draws), purifier.purify(x, draws, mask))
    assert not torch.equal(purifier(x, draws), purifier.purify(x, draws, 1 - mask))


def test_views_show_the_way(net: Classifier) -> None:
    x, draws = images(2, dtype=torch.float64), rows(2)
    purifier = purifier_of(net, grid_size=50, tau=0.7)
    views = purifier.views(x, draws)
    assert list(views) == ["attention map", "mask", "heterogeneous noise", "purified"]
    assert torch.equal(views["mask"], (views["attention map"] >= 0.7).double())
    assert torch.equal(views["purified"], purifier(x, draws))
    noisy = heterogeneous_noise(2 * x - 1, views["mask"], Schedule(), 200, 100, draws)
    torch.testing.assert_close(views["heterogeneous noise"], ((noisy + 1) / 2).clamp(0, 1))
    assert all(view.min() >= 0 and view.max() <= 1 for view in views.values())


def _bad(**settings: object) -> dict:
    return settings


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("t_small", _bad(t_small=0.3, t_large=0.2)),
        ("t_small", _bad(t_small=0.2, t_large=0.2)),
        ("t_small", _bad(t_small=0.0)),
        ("t_small", _bad(t_small=-0.1)),
        ("t_large", _bad(t_large=1.0)),
        ("t_large", _bad(t_large=float("nan"))),
        ("eta", _bad(eta=-0.1)),
        ("eta", _bad(eta=1.1)),
        ("order", _bad(order="mine")),
        ("resampling", _bad(resampling="double")),
        ("end", _bad(end="early")),
        ("U", _bad(U=0)),
        ("U", _bad(U=800)),
        ("grid_size", _bad(grid_size=3)),
        ("grid_size", _bad(grid_size=0)),
        ("grid_size", _bad(grid_size=10, t_large=0.35, t_small=0.25)),  # released order: no grid point in [250, 300)
        ("tau", _bad(tau=1.2)),
        ("tau", _bad(tau=-0.2)),
        ("top_fraction", _bad(top_fraction=0.0)),
        ("p", _bad(p=0)),
        ("blocks", _bad(blocks=["no_such"])),
    ],
)
def test_impossible_arguments_are_refused_by_name(net: Classifier, name: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        purifier_of(net, **settings)


@pytest.mark.parametrize(
    ("settings", "key", "related"),
    [
        ({"t_large": 0.2, "t_small": 0.3}, "t_small", ("t_large",)),
        ({"t_large": 0.9, "U": 200}, "U", ("t_large",)),
        ({"t_large": 0.08, "t_small": 0.05, "grid_size": 10}, "grid_size", ("t_large",)),
        ({"t_large": 0.35, "t_small": 0.25, "grid_size": 10}, "grid_size", ("t_large", "t_small")),
    ],
)
def test_arguments_that_do_not_go_together_are_named(net: Classifier, settings: dict, key: str, related: tuple) -> None:
    with pytest.raises(ConfigError) as caught:
        purifier_of(net, **settings)
    assert caught.value.key == key and caught.value.related == related
    assert all(name in str(caught.value) for name in related) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda x: x.float(), lambda x: x])
def test_the_result_is_of_the_images_own_kind(make: Callable[[Tensor], Tensor]) -> None:
    x = make(images(2, dtype=torch.float64))
    net = tiny_classifier(dtype=x.dtype)
    out = purifier_of(net, grid_size=50, eta=1.0, end="clean", order="paper", resampling="single")(x, rows(2))
    assert out.dtype == x.dtype and out.shape == x.shape and out.min() >= 0 and out.max() <= 1
