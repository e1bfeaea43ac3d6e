"""Random noise of an attack's norm: what an attack must beat."""

from torch import Tensor

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.norms import NORMS, NormName
from hetpure.noise import Draws


class RandomNoise(Attack):
    """A random direction, eps long: random signs (Linf) or a random point of the sphere (L2). Asks for no gradient.

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: length, in units of images in [0, 1].

    Raises:
        ValueError: names the argument that cannot be.
    """

    steps = 0

    def __init__(self, norm: NormName = "Linf", eps: float = 8 / 255) -> None:
        if norm not in NORMS:
            raise ValueError(f"norm = {norm!r} must be one of {', '.join(NORMS)}")
        if not eps >= 0.0:
            raise ValueError(f"eps = {eps} must not be negative")
        self.norm, self.eps = norm, eps

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        norm = NORMS[self.norm]
        draws = Draws(gradient.seed, "attack", sample, sample.new_zeros(len(sample)))
        noise = norm.direction(draws.normal_like(x, "random noise", 0))
        return norm.project(x + self.eps * noise, x, self.eps)

    def __str__(self) -> str:
        return f"random noise {self.norm} eps {self.eps:.4g}"
