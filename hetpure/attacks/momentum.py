"""PGD whose gradient is averaged over iterations as well as over draws: the same strength for fewer network calls."""

import math

from torch import Tensor

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.losses import LOSSES, LossName, check_loss
from hetpure.attacks.norms import NORMS, NormName, check_ball, written
from hetpure.attacks.search import Search, check_evaluations


class MomentumPGD(Attack):
    """Few draws an iteration, and what they tell kept: for randomised defenses, with ``attack.eot`` of about 4.

    PGD+EOT pays for a good mean at every iteration and then throws it away, though the next iteration's image is nearly
    the same. Here g <- momentum * g + gradient / |gradient|_1 (Dong et al. 2018) lets iterations share their draws; the
    step falls from ``step_size`` to zero along a cosine, so that the noise that is left averages out; and at
    ``checks`` times, evenly spread, the images are tried out repeatedly, the strongest are kept, and what is surely
    broken is left alone (``Search``).

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
        steps: iterations.
        step_size: length of the first step, in units of eps.
        momentum: share of the old mean that is kept, in [0, 1).
        loss: what to climb, ``ce``, ``margin`` or ``dlr``.
        checks: how often the images are tried out, the last time at the end.
        evaluations: how often each image is, at a check.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        steps: int = 200,
        step_size: float = 0.25,
        momentum: float = 0.9,
        loss: LossName = "ce",
        checks: int = 4,
        evaluations: int = 20,
    ) -> None:
        check_ball(norm, eps)
        check_loss(loss, tuple(LOSSES))
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        if not step_size > 0.0:
            raise ValueError(f"step_size = {step_size} must be positive")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum = {momentum} must lie in [0, 1)")
        if not 1 <= checks <= steps:
            raise ValueError(f"checks = {checks} must lie between 1 and steps = {steps}")
        check_evaluations(evaluations)
        self.norm, self.eps, self.step_size, self.momentum = norm, eps, step_size, momentum
        self.loss, self.checks, self.evaluations, self.steps = loss, checks, evaluations, steps
        self.classes = LOSSES[loss].classes

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        norm, loss = NORMS[self.norm], LOSSES[self.loss]
        search = Search(gradient, x, label, sample, self.evaluations, observe)
        every = {self.steps * (check + 1) // self.checks for check in range(self.checks)}
        rows, x_adv, mean = search.all, x, x.new_zeros(x.shape)
        for step in range(self.steps):
            if not len(rows):
                search.skip(1)
                continue
            found = search.ask(rows, x_adv[rows], loss).value
            size = found.abs().flatten(1).sum(dim=1).clamp_min(1e-30).view(-1, *[1] * (x.ndim - 1))
            mean = mean.index_copy(0, rows, self.momentum * mean[rows] + found / size)
            length = self.step_size * self.eps * (1.0 + math.cos(math.pi * step / self.steps)) / 2.0
            moved = norm.project(x_adv[rows] + length * norm.direction(mean[rows]), x[rows], self.eps)
            x_adv = x_adv.index_copy(0, rows, moved)
            if step + 1 in every:
                search.offer(rows, moved)
                rows = search.open()
        return search.image

    def __str__(self) -> str:
        parts = [f"momentum PGD {written(self.norm, self.eps)}", f"{self.steps} steps"]
        parts += [self.loss] if self.loss != "ce" else []
        return ", ".join(parts)
