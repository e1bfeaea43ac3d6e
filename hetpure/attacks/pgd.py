"""Projected gradient descent (Madry et al. 2018) on whatever gradient it is given: with EOT gradients, PGD+EOT."""

from torch import Tensor

from hetpure.attacks.base import IterativeAttack
from hetpure.attacks.losses import find_loss
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require


class PGD(IterativeAttack):
    """A fixed step along the normalised mean gradient; projection onto the ball and onto [0, 1].

    One run ends with its last iterate, as the paper's does. With restarts, every run's last iterate is tried out
    repeatedly and the strongest is kept (``Search``); runs after the first start at random points and leave out samples
    that are broken.

    Args:
        norm, eps, steps, step_size, loss, restarts, evaluations: see ``IterativeAttack``.
        random_start: whether the first run starts at a random point too, not at the clean image.
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
    ) -> None:
        super().__init__(norm, eps, steps, evaluations, step_size)
        require(restarts >= 1, "restarts", restarts, "1 or more")
        self.step_size, self.loss, self.random_start, self.restarts = step_size, loss, random_start, restarts
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
            search.offer(rows, x_adv)
        return search.image

    def _run(self, search: Search, rows: Tensor, random_start: bool) -> Tensor:
        norm, loss = NORMS[self.norm], find_loss(self.loss)
        x = search.x[rows]
        x_adv = search.start(rows, norm, self.eps) if random_start else x
        for _ in range(self.run_length):
            gradient = search.ask(rows, x_adv, loss).value
            x_adv = norm.project(x_adv + self.step_size * norm.direction(gradient), x, self.eps)
        return x_adv

    def __str__(self) -> str:
        loss, start = self.loss if self.loss != "ce" else None, "random start" if self.random_start else None
        restarts = f"{self.restarts} restarts" if self.restarts > 1 else None
        return self.title("PGD", f"{self.run_length} steps of {self.step_size:g}", loss, start, restarts)
