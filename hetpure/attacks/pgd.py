"""Projected gradient descent (Madry et al. 2018) on whatever gradient it is given: with EOT gradients, PGD+EOT."""

from torch import Tensor

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.norms import NORMS, NormName


class PGD(Attack):
    """No random start; a fixed step along the normalised mean gradient; projection onto the ball and onto [0, 1].

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
        steps: iterations.
        step_size: length of one step in the norm.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self, norm: NormName = "Linf", eps: float = 8 / 255, steps: int = 200, step_size: float = 0.007
    ) -> None:
        if norm not in NORMS:
            raise ValueError(f"norm = {norm!r} must be one of {', '.join(NORMS)}")
        if not eps >= 0.0:
            raise ValueError(f"eps = {eps} must not be negative")
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        if not step_size > 0.0:
            raise ValueError(f"step_size = {step_size} must be positive")
        self.norm, self.eps, self.steps, self.step_size = norm, eps, steps, step_size

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        """See ``Attack``."""
        norm = NORMS[self.norm]
        x_adv = x
        for iteration in range(self.steps):
            found = gradient(x_adv, label, sample, iteration)
            x_adv = norm.project(x_adv + self.step_size * norm.direction(found.value), x, self.eps)
            if observe is not None:
                observe(iteration, found)
        return x_adv

    def __str__(self) -> str:
        """See ``Attack``."""
        levels = self.eps * 255
        eps = f"{levels:.0f}/255" if self.norm == "Linf" and abs(levels - round(levels)) < 1e-6 else f"{self.eps:g}"
        return f"PGD {self.norm} eps {eps}, {self.steps} steps of {self.step_size:g}"
