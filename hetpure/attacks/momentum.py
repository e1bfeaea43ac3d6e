"""PGD whose gradient is averaged over iterations as well as over draws: the same strength for fewer network calls."""

import math
from abc import abstractmethod

from torch import Tensor

from hetpure.attacks.base import IterativeAttack
from hetpure.attacks.losses import find_loss
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require


class AveragingPGD(IterativeAttack):
    """PGD along a mean of the iterations' gradients, with a step that falls from ``step_size`` to zero along a cosine.

    At ``checks`` evenly spread times the images are tried out repeatedly, the strongest are kept, and samples that are
    broken are left out from then on (``Search``).

    Subclasses have these arguments in common:

    Args:
        norm, eps, steps, loss, evaluations: see ``IterativeAttack``.
        step_size: length of the first step, in units of eps.
        checks: how often the images are tried out, the last time at the end.
    """

    def __init__(
        self, norm: NormName, eps: float, steps: int, step_size: float, loss: str, checks: int, evaluations: int
    ) -> None:
        super().__init__(norm, eps, steps, evaluations, step_size)
        require(1 <= checks <= steps, "checks", checks, f"1 to steps, which is {steps}", "steps")
        self.step_size, self.loss, self.checks = step_size, loss, checks
        self.classes = find_loss(loss).classes

    @abstractmethod
    def update(self, mean: Tensor, search: Search, rows: Tensor, images: Tensor, step: int) -> Tensor:
        """The mean of some rows' gradients (N, C, H, W) with that of this step, from 0, at their images; asks once."""

    def attack(self, search: Search) -> Tensor:
        norm, x = NORMS[self.norm], search.x
        check_after = {self.steps * (check + 1) // self.checks for check in range(self.checks)}
        rows, x_adv, mean = search.all, x, x.new_zeros(x.shape)
        for step in range(self.steps):
            if not len(rows):
                search.skip(1)
                continue
            mean = mean.index_copy(0, rows, self.update(mean[rows], search, rows, x_adv[rows], step))
            length = self.step_size * self.eps * (1.0 + math.cos(math.pi * step / self.steps)) / 2.0
            moved = norm.project(x_adv[rows] + length * norm.direction(mean[rows]), x[rows], self.eps)
            x_adv = x_adv.index_copy(0, rows, moved)
            if step + 1 in check_after:
                search.offer(rows, moved)
                rows = search.open()
        return search.image


class MomentumPGD(AveragingPGD):
    """Few draws an iteration, averaged over iterations: for randomised defenses, with ``attack.eot`` of about 4.

    PGD+EOT pays for a good mean at every iteration and then discards it, though the next iteration's image is nearly
    the same. Here g <- momentum * g + gradient / |gradient|_1 (Dong et al. 2018) lets iterations share their draws. The
    step falls to zero so that the remaining noise averages out.

    Args:
        norm, eps, steps, step_size, loss, checks, evaluations: see ``AveragingPGD``.
        momentum: share of the old mean that is kept, in [0, 1).
    """

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        steps: int = 200,
        step_size: float = 0.25,
        momentum: float = 0.9,
        loss: str = "ce",
        checks: int = 4,
        evaluations: int = 20,
    ) -> None:
        super().__init__(norm, eps, steps, step_size, loss, checks, evaluations)
        require(0.0 <= momentum < 1.0, "momentum", momentum, "from 0 to below 1")
        self.momentum = momentum

    def update(self, mean: Tensor, search: Search, rows: Tensor, images: Tensor, step: int) -> Tensor:
        value = search.ask(rows, images, find_loss(self.loss)).value
        size = value.abs().flatten(1).sum(dim=1).clamp_min(1e-30).view(-1, *[1] * (value.ndim - 1))
        return self.momentum * mean + value / size

    def __str__(self) -> str:
        return self.title("momentum PGD", f"{self.steps} steps", self.loss if self.loss != "ce" else None)
