import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from hetpure.errors import ConfigError
from hetpure.noise import Draws, attack_draws, defense_draws, philox, selection_draws

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Random123's kat_vectors for philox4x32-10.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == expected
    # The same in a batch of counters, broadcast as the draws do it.
    tensors = [torch.tensor([[0, word]]) for word in counter]
    assert tuple(int(word[0, 1]) for word in philox(tensors, key)) == expected


def one(seed=0, process="defense", sample=0, draw=0, purpose="diffuse", step=5, size=4096) -> np.ndarray:
    draws = Draws(seed, process, torch.tensor([sample]), torch.tensor([draw]))
    return draws.normal(purpose, step, (size,), torch.float64)[0].numpy()


@pytest.mark.parametrize(
    ("keys", "counts", "numbers", "normals", "uniforms"),
    [
        (
            defense_draws,
            (2,),
            [0, 1],
            [-0.8788774864738057, 0.49689593890832817, 0.4068390361850495],
            [0.24356618511956185, 0.6393477179808542, 0.5452861482044682, 0.8338766078231856, 0.506449555628933],
        ),
        (
            attack_draws,
            (1, 2),
            [2, 3],
            [1.0188204427076852, 1.6261591392404224, 0.7973233365035677],
            [0.10363112657796592, 0.5664261161582544, 0.03407949616666883, 0.915505759534426, 0.012307848897762597],
        ),
        (
            selection_draws,
            (2,),
            [0, 1],
            [0.44644696808635437, -0.9818569623395469, 0.011185887890263686],
            [0.5421398779144511, 0.23038066399749368, 0.21040753310080618, 0.3673870487837121, 0.026462233043275774],
        ),
    ],
)
def test_a_seed_means_these_numbers(
    keys: Callable[..., Draws], counts: tuple, numbers: list, normals: list, uniforms: list
) -> None:
    """Pinned, so that published results can be repeated: to 1e-12, for the rounding of cosines and logarithms."""
    draws = keys(3, torch.tensor([70000]), *counts)
    assert draws.draw.tolist() == numbers
    assert draws.normal("diffuse", 7, (3,), torch.float64)[1].tolist() == pytest.approx(normals, rel=1e-12)
    assert draws.uniform("gaps", 7, (5,), torch.float64)[1].tolist() == pytest.approx(uniforms, rel=1e-12)


def test_normals_are_normal() -> None:
    x = one(size=300_000)  # more than 2^16 counters
    n = len(x)
    assert len(np.unique(x)) == n
    # Four standard errors of each moment.
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(x)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    assert 4 < np.abs(x).max() < 7


def test_normals_are_normal_across_keys_too() -> None:
    """One number each of many samples and steps: counters that differ in a few bits must not show."""
    across_samples = defense_draws(0, torch.arange(200_000), 1).normal("diffuse", 0, (1,), torch.float64).numpy()[:, 0]
    assert stats.kstest(across_samples, "norm").pvalue > 1e-3
    across_steps = np.array([one(step=step, size=1)[0] for step in range(1000)])
    assert stats.kstest(across_steps, "norm").pvalue > 1e-3


def test_uniforms_are_uniform() -> None:
    u = Draws(0, "defense", torch.tensor([3]), torch.tensor([1])).uniform("other", 2, (200_000,), torch.float64)
    assert u.min() > 0.0 and u.max() < 1.0
    assert stats.kstest(u[0].numpy(), "uniform").pvalue > 1e-3


VARIANTS = {
    "the base": {},
    "another seed": {"seed": 1},
    "the attacker": {"process": "attack"},
    "another sample": {"sample": 1},
    "another draw": {"draw": 1},
    "another purpose": {"purpose": "resample"},
    "a third purpose": {"purpose": "step"},
    "another step": {"step": 6},
    "the clean step": {"step": -1},
    "the sample 2^16 further": {"sample": 1 << 16},
    "the draw 2^16 further": {"draw": 1 << 16},
    "the step 2^16 further": {"step": 5 + (1 << 16)},
    "the seed 2^32 further": {"seed": 1 << 32},
    "sample and draw swapped": {"sample": 5, "draw": 0},
    "draw and step swapped": {"draw": 5, "step": 0},
}


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(VARIANTS, 2)))
def test_different_keys_share_no_number_and_do_not_correlate(a: str, b: str) -> None:
    x, y = one(**VARIANTS[a]), one(**VARIANTS[b])
    assert not np.intersect1d(x, y).size
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / np.sqrt(len(x))


def test_numbers_of_one_row_do_not_correlate() -> None:
    x = one(size=40_000)
    for lag in (1, 2, 3, 4, 8, 10_000, 20_000, 30_000):  # Box-Muller pairs and the four words lie this far apart
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 5 / np.sqrt(len(x) - lag)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 7, 5), (3,)])
def test_a_row_draws_the_same_in_any_company(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Bit for bit: alone, in batches of 4 and 16, permuted, and beside other draws."""
    sample = torch.arange(16) * 37
    together = defense_draws(9, sample, 3).normal("diffuse", 7, shape, dtype)
    assert together.shape == (48, *shape) and together.dtype == dtype
    for size in (1, 4):
        parts = [
            defense_draws(9, sample[i : i + size], 3).normal("diffuse", 7, shape, dtype) for i in range(0, 16, size)
        ]
        assert torch.equal(torch.cat(parts), together)
    order = torch.randperm(48)
    assert torch.equal(defense_draws(9, sample, 3).rows(order).normal("diffuse", 7, shape, dtype), together[order])


def test_float32_is_float64_rounded_once() -> None:
    draws = Draws(0, "defense", torch.tensor([2]), torch.tensor([0]))
    exact = draws.normal("diffuse", 1, (1000,), torch.float64)
    assert torch.equal(draws.normal("diffuse", 1, (1000,), torch.float32), exact.float())
    x = torch.empty(1, 3, 4, 4)
    assert torch.equal(draws.normal_like(x, "diffuse", 1), draws.normal("diffuse", 1, (3, 4, 4)))
    assert torch.equal(
        draws.normal_like(x.double(), "diffuse", 1), draws.normal("diffuse", 1, (3, 4, 4), torch.float64)
    )
    exact = draws.uniform("gaps", 1, (1000,), torch.float64)
    assert torch.equal(draws.uniform("gaps", 1, (1000,)), exact.float())


def test_numbers_are_drawn_on_the_samples_own_device() -> None:
    draws = defense_draws(0, torch.arange(2, device="meta"), 3)
    assert draws.draw.device.type == draws.normal("diffuse", 1, (5,)).device.type == "meta"


def test_only_the_count_of_numbers_matters_not_the_shape() -> None:
    draws = Draws(0, "defense", torch.tensor([2]), torch.tensor([0]))
    a = draws.normal("diffuse", 1, (2, 4, 4))
    assert torch.equal(a.flatten(), draws.normal("diffuse", 1, (32,)).flatten())


def test_global_generators_do_not_matter() -> None:
    torch.manual_seed(1)
    a = one()
    torch.manual_seed(2)
    torch.randn(10)
    assert np.array_equal(a, one())


def test_defense_rows_are_sample_by_sample() -> None:
    draws = defense_draws(0, torch.tensor([10, 4]), 3)
    assert draws.sample.tolist() == [10, 10, 10, 4, 4, 4]
    assert draws.draw.tolist() == [0, 1, 2, 0, 1, 2]
    assert draws.process == "defense"


def test_attack_draws_are_fresh_in_every_iteration() -> None:
    seen = [attack_draws(0, torch.tensor([4, 9]), iteration, 3) for iteration in range(5)]
    assert all(d.process == "attack" and d.sample.tolist() == [4, 4, 4, 9, 9, 9] for d in seen)
    of_first_sample = [number for d in seen for number in d.draw[:3].tolist()]
    assert len(set(of_first_sample)) == 15


def test_attack_and_defense_share_no_number() -> None:
    sample = torch.arange(4)
    defense = defense_draws(0, sample, 20).normal("diffuse", 200, (64,), torch.float64)
    for iteration in range(5):
        attack = attack_draws(0, sample, iteration, 20).normal("diffuse", 200, (64,), torch.float64)
        assert not np.intersect1d(defense.numpy(), attack.numpy()).size


def test_a_round_shifts_the_step() -> None:
    """Round 2 at step 5 of a schedule of 1000 is step 2005; rounds are counted from the first, not from one another."""
    draws = defense_draws(0, torch.arange(3), 2)
    expected = draws.normal("step", 2005, (8,))
    assert torch.equal(draws.in_round(2, 1000).normal("step", 5, (8,)), expected)
    assert torch.equal(
        draws.in_round(1, 1000).in_round(2, 1000).rows(slice(1, 3)).normal("step", 5, (8,)), expected[1:3]
    )
    assert torch.equal(draws.in_round(0, 1000).uniform("step", 5, (8,)), draws.uniform("step", 5, (8,)))
    assert not torch.equal(draws.in_round(1, 1000).uniform("step", 5, (8,)), draws.uniform("step", 5, (8,)))


def test_keys_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one draw per sample, and sample is \(3,\)") as caught:
        Draws(0, "defense", torch.arange(3), torch.arange(2))
    assert (caught.value.key, caught.value.related) == ("draw", ("sample",))
