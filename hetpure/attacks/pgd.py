"""Projected gradient descent (Madry et al. 2018) on whatever gradient it is given: with EOT gradients, PGD+EOT."""

import torch
from torch import Tensor

from hetpure.attacks.base import IterativeAttack
from hetpure.attacks.gradients import Gradient
from hetpure.attacks.losses import find_loss
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require


class PGD(IterativeAttack):
    """A fixed step along the normalised mean gradient; projection onto the ball and onto [0, 1].

    One run ends with its last iterate, as the paper's does. With restarts, every run's last iterate is tried out
    repeatedly and the strongest is kept (``Search``); runs after the first start at random points and leave out samples
    that are broken.

    With ``skip_broken`` an image that is surely broken leaves the attack and is what the attack returns. That is looked
    at in the iterations 0 (the clean image), 1, 2, 4, 8, ..: an image that all draws of its gradient got wrong is tried
    out, twice in a row with draws of its own (``Search.surely_broken``). These iterations do not depend on ``steps``,
    so a shorter attack still gives the images that a longer one has on its way.

    Args:
        norm, eps, steps, step_size, loss, restarts, evaluations: see ``IterativeAttack``.
        random_start: whether the first run starts at a random point too, not at the clean image.
        skip_broken: whether images that are surely broken leave a single run early.
    """

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        steps: int = 200,
        step_size: float = 0.007,
        loss: str = "ce",
        random_start: bool = False,
        restarts: int = 1,
        evaluations: int = 20,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(norm, eps, steps, evaluations, step_size)
        require(restarts >= 1, "restarts", restarts, "1 or more")
        again = "false with restarts: later runs leave broken images out by themselves"
        require(not skip_broken or restarts == 1, "skip_broken", skip_broken, again)
        self.step_size, self.loss, self.random_start, self.restarts = step_size, loss, random_start, restarts
        self.skip_broken = skip_broken
        self.classes = find_loss(loss).classes
        self.steps = steps * restarts
        self.has_prefixes = restarts == 1

    def attack(self, search: Search) -> Tensor:
        for restart in range(self.restarts):
            rows = search.open()
            if not len(rows):
                search.skip(self.run_length)
                continue
            x_adv = self._run(search, rows, self.random_start or restart > 0)
            if self.restarts == 1:
                return x_adv
            search.offer(rows, x_adv[rows])
        return search.image

    def _run(self, search: Search, rows: Tensor, random_start: bool) -> Tensor:
        """Images (B, C, H, W) of the search, those of some rows after a run of the attack."""
        norm, loss, x = NORMS[self.norm], find_loss(self.loss), search.x
        x_adv = x.index_copy(0, rows, search.start(rows, norm, self.eps)) if random_start else x
        for step in range(self.run_length):
            if not len(rows):
                search.skip(1)
                continue
            images = x_adv[rows]
            found = search.ask(rows, images, loss)
            gradient = found.value
            if self.skip_broken and step & (step - 1) == 0:  # 0 and the powers of two
                stay = ~_broken(search, images, rows, found)
                rows, images, gradient = rows[stay], images[stay], gradient[stay]
            moved = norm.project(images + self.step_size * norm.direction(gradient), x[rows], self.eps)
            x_adv = x_adv.index_copy(0, rows, moved)
        return x_adv

    def __str__(self) -> str:
        loss, start = self.loss if self.loss != "ce" else None, "random start" if self.random_start else None
        restarts = f"{self.restarts} restarts" if self.restarts > 1 else None
        skips = "broken images leave early" if self.skip_broken else None
        return self.title("PGD", f"{self.run_length} steps of {self.step_size:g}", loss, start, restarts, skips)


def _broken(search: Search, images: Tensor, rows: Tensor, found: Gradient) -> Tensor:
    """Which images of some rows are surely broken, (N,); not tried out where a draw of the gradient was right."""
    at = (found.correct == 0.0).nonzero()[:, 0]
    broken = torch.zeros_like(rows, dtype=torch.bool)
    return broken.index_copy(0, at, search.surely_broken(images[at], rows[at]))
