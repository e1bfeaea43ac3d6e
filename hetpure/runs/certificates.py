"""Certificates of randomized smoothing (Cohen et al. 2019): from counts of votes to a class and an L2 radius."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betaincinv, ndtri


@dataclass(frozen=True)
class Certificate:
    """What was certified at an image: ``label`` is the smoothed classifier's class everywhere within ``radius``.

    It is wrong with a probability of at most alpha over the draws.
    """

    label: int | None  # None: abstained
    radius: float  # L2, in units of images in [0, 1]; 0 after an abstention
    votes: int  # of the n draws, for the class that most of the first n0 draws had
    distance: float | None = None  # L2 distance of the adversarial image; None without an attack
    attacked_votes: int | None = None  # of n draws at that image, for ``label``; None where the radius ends before it

    @property
    def covers_attack(self) -> bool:
        """Whether the adversarial image is within the radius."""
        return self.distance is not None and self.label is not None and self.distance <= self.radius

    def is_broken(self, n: int, alpha: float) -> bool:
        """Whether most draws at an adversarial image within the radius are for other classes, significantly so.

        A right certificate says that they are not: within the radius its class has a probability of 1/2 or more. So
        this is true by chance with a probability of at most alpha, and of alpha that the certificate was wrong.
        """
        return self.attacked_votes is not None and lower_bound(n - self.attacked_votes, n, alpha) > 0.5


def certify(counts0: Sequence[int], counts: Sequence[int], alpha: float, sigma: float) -> Certificate:
    """CERTIFY of Cohen et al. (2019).

    Args:
        counts0: votes for each class in the first n0 draws, which choose the class; the first where they tie.
        counts: votes for each class in n further draws, which bound its probability.
        alpha: probability of a wrong certificate, in (0, 1).
        sigma: standard deviation of the noise.
    """
    chosen = max(range(len(counts0)), key=lambda label: counts0[label])
    radius = certified_radius(counts[chosen], sum(counts), alpha, sigma)
    return Certificate(chosen if radius > 0.0 else None, radius, counts[chosen])


def certified_radius(votes: int, n: int, alpha: float, sigma: float) -> float:
    """The radius sigma * Phi^-1(p), p the lower bound of the class's probability; 0 where p is at most 1/2."""
    p = lower_bound(votes, n, alpha)
    return sigma * float(ndtri(p)) if p > 0.5 else 0.0


def lower_bound(votes: int, n: int, alpha: float) -> float:
    """The one-sided Clopper-Pearson bound: with probability 1 - alpha the true share is at least this."""
    return float(betaincinv(votes, n - votes + 1, alpha)) if votes else 0.0
