"""PGD whose gradient is averaged over iterations as well as over draws: the same strength for fewer network calls."""

import math

from torch import Tensor

from hetpure.attacks.base import IterativeAttack
from hetpure.attacks.losses import find_loss
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require


class MomentumPGD(IterativeAttack):
    """Few draws an iteration, averaged over iterations: for randomised defenses, with ``attack.eot`` of about 4.

    PGD+EOT pays for a good mean at every iteration and then discards it, though the next iteration's image is nearly
    the same. Here g <- momentum * g + gradient / |gradient|_1 (Dong et al. 2018) lets iterations share their draws. The
    step falls from ``step_size`` to zero along a cosine, so that the remaining noise averages out. At ``checks`` evenly
    spread times the images are tried out repeatedly, the strongest are kept, and samples that are broken are left out
    from then on (``Search``).

    Args:
        norm, eps, steps, loss, evaluations: see ``IterativeAttack``.
        step_size: length of the first step, in units of eps.
        momentum: share of the old mean that is kept, in [0, 1).
        checks: how often the images are tried out, the last time at the end.
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
        super().__init__(norm, eps, steps, evaluations, step_size)
        require(0.0 <= momentum < 1.0, "momentum", momentum, "from 0 to below 1")
        require(1 <= checks <= steps, "checks", checks, f"1 to steps, which is {steps}", "steps")
        self.step_size, self.momentum, self.loss, self.checks = step_size, momentum, loss, checks
        self.classes = find_loss(loss).classes

    def attack(self, search: Search) -> Tensor:
        norm, loss, x = NORMS[self.norm], find_loss(self.loss), search.x
        check_after = {self.steps * (check + 1) // self.checks for check in range(self.checks)}
        rows, x_adv, mean = search.all, x, x.new_zeros(x.shape)
        for step in range(self.steps):
            if not len(rows):
                search.skip(1)
                continue
            value = search.ask(rows, x_adv[rows], loss).value
            size = value.abs().flatten(1).sum(dim=1).clamp_min(1e-30).view(-1, *[1] * (x.ndim - 1))
            mean = mean.index_copy(0, rows, self.momentum * mean[rows] + value / size)
            length = self.step_size * self.eps * (1.0 + math.cos(math.pi * step / self.steps)) / 2.0
            moved = norm.project(x_adv[rows] + length * norm.direction(mean[rows]), x[rows], self.eps)
            x_adv = x_adv.index_copy(0, rows, moved)
            if step + 1 in check_after:
                search.offer(rows, moved)
                rows = search.open()
        return search.image

    def __str__(self) -> str:
        return self.title("momentum PGD", f"{self.steps} steps", self.loss if self.loss != "ce" else None)
