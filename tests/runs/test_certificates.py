"""Certificates against the published procedure's formula, and against a linear classifier, whose radius is known."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from hetpure.runs.certificates import Certificate, certified_radius, certify, lower_bound


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_the_published_one(alpha: float) -> None:
    """The published code takes statsmodels' "beta" interval of 2 alpha, whose lower end is this quantile: to 1e-12."""
    for n in (1, 10, 100, 10_000, 100_000):
        for votes in {0, 1, n // 2, n * 3 // 4, n - 1, n}:
            published = beta.ppf(2 * alpha / 2, votes, n - votes + 1) if votes else 0.0
            assert lower_bound(votes, n, alpha) == pytest.approx(published, rel=1e-12, abs=1e-300)


def test_the_bound_is_where_so_many_votes_have_probability_alpha() -> None:
    """The definition, by the binomial tail, to 1e-9; all votes have the closed form alpha ** (1 / n)."""
    for votes, n in ((7, 10), (60, 100), (9_900, 10_000)):
        assert binom.sf(votes - 1, n, lower_bound(votes, n, 0.001)) == pytest.approx(0.001, rel=1e-9)
    assert lower_bound(10_000, 10_000, 0.001) == pytest.approx(0.001 ** (1 / 10_000), rel=1e-12)


@pytest.mark.parametrize(
    ("votes", "n", "label", "radius"),
    [
        (10_000, 10_000, 1, 0.5 * norm.ppf(0.001**1e-4)),
        (9_900, 10_000, 1, 0.5 * norm.ppf(beta.ppf(0.001, 9_900, 101))),
        (5_156, 10_000, 1, 0.5 * norm.ppf(beta.ppf(0.001, 5_156, 4_845))),
        (5_155, 10_000, None, 0.0),
        (9, 10, None, 0.0),
        (10, 10, 1, 0.5 * norm.ppf(0.001**0.1)),
        (0, 10, None, 0.0),
    ],
)
def test_equal_counts_give_the_published_class_and_radius(votes: int, n: int, label: int | None, radius: float) -> None:
    """Radii by the quantiles that the published code takes, sigma 0.5, alpha 0.001, to 1e-9: near 1/2 digits cancel."""
    found = certify([10, 60, 30], [0, votes, n - votes], 0.001, 0.5)
    assert found.label == label and found.votes == votes
    assert found.radius == pytest.approx(radius, rel=1e-9)


def test_the_first_draws_choose_the_class_and_the_first_class_where_they_tie() -> None:
    assert certify([5, 5, 0], [0, 100, 0], 0.001, 0.5) == Certificate(None, 0.0, 0), "the other draws do not choose"
    assert certify([4, 6, 0], [0, 100, 0], 0.001, 0.5).label == 1


def test_a_linear_classifiers_radius_is_never_exceeded_and_approached() -> None:
    """Of sign(w x + b) the exact radius is |w x + b| / |w|. At most alpha of the certificates may exceed it.

    4000 certificates at alpha 0.05: 200 are expected at most, 262 have a probability of 1e-5. The shortfall goes to 0.
    """
    random, sigma, alpha, margin = np.random.default_rng(0), 0.25, 0.05, 0.2
    shortfall = []
    for n in (100, 10_000, 1_000_000):
        votes = random.binomial(n, norm.cdf(margin / sigma), size=4000)
        found = np.array([certify([0, 1], [n - k, int(k)], alpha, sigma).radius for k in votes])
        assert (found > margin).sum() <= binom.ppf(1 - 1e-5, 4000, alpha)
        assert n == 100 or (found > margin).sum() > 100, "and the bound is no looser than it says"
        shortfall.append(margin - found.mean())
    assert shortfall[0] > 5 * shortfall[1] > 25 * shortfall[2] > 0.0
    assert shortfall[2] < 1e-3


def test_what_a_certificate_says_of_an_attack() -> None:
    far, near = Certificate(3, 0.5, 900, distance=0.6), Certificate(3, 0.5, 900, distance=0.4)
    assert not far.covers_attack and near.covers_attack and not near.is_broken(1000, 0.001)
    assert not Certificate(None, 0.0, 5, distance=0.0).covers_attack
    for votes in range(101):
        p = binom.cdf(votes, 100, 0.5)  # of so few votes, if the class had half of them
        assert Certificate(3, 0.5, 90, 0.4, attacked_votes=votes).is_broken(100, 0.001) == (p < 0.001)
    assert math.isclose(certified_radius(10, 10, 0.001, 1.0), 2 * certified_radius(10, 10, 0.001, 0.5))
