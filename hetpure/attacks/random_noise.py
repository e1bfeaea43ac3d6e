"""Random noise within an attack's ball: what an attack must beat."""

from torch import Tensor

from hetpure.attacks.base import BallAttack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.norms import NORMS, NormName
from hetpure.noise import Draws


class RandomNoise(BallAttack):
    """A random direction, eps long: random signs (Linf) or a random point of the sphere (L2). Asks for no gradient."""

    steps = 0

    def __init__(self, norm: NormName = "Linf", eps: float = 8 / 255) -> None:
        super().__init__(norm, eps)

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        norm = NORMS[self.norm]
        draws = Draws(gradient.seed, "attack", sample, sample.new_zeros(len(sample)))
        noise = norm.direction(draws.normal_like(x, "random noise", 0))
        return norm.project(x + self.eps * noise, x, self.eps)

    def __str__(self) -> str:
        return f"random noise {self.norm} eps {self.eps:.4g}"
