"""Auto-PGD (Croce & Hein 2020, Algorithm 1) with EOT: momentum, and a step size that follows each image's progress."""

from typing import NamedTuple

import torch
from torch import Tensor

from hetpure.attacks.base import IterativeAttack
from hetpure.attacks.losses import Loss, TargetedDLR, find_loss
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require

MOMENTUM = 0.75
"""alpha of the paper's update: the share of the new step; the rest is the previous one."""


class Climb(NamedTuple):
    """The outcome of one run for its images (N, C, H, W): the iterates of the highest mean loss, and that loss (N,).

    The weakest are the iterates that the smallest share of EOT draws got right (of equals, the last), with that share.
    """

    highest: Tensor
    loss: Tensor
    weakest: Tensor
    correct: Tensor


class APGD(IterativeAttack):
    """Parameter-free PGD: the first step has length 2 eps and is halved, image by image, where progress stalls.

    One iteration: z = P(x_k + step * direction), x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})). At
    checkpoints (after 22 % of the iterations, then at intervals that shrink by 3 % of them down to 6 %) an image's step
    is halved, and its search goes on from the best iterate so far, where fewer than ``rho`` of the steps since the last
    checkpoint raised the loss, or where neither step size nor best loss changed since then.

    A run starts at a random point. Its gradients and losses are means over EOT draws, so the schedule sees the mean and
    not one noisy draw. The result is chosen over runs, restarts and targets by repeated evaluation: ``Search``. On a
    process without randomness this is the published attack, iterate by iterate.

    Args:
        norm, eps, evaluations: see ``IterativeAttack``.
        steps: iterations of a run; each asks for one gradient, and the starting point for one more.
        loss: ``ce``, ``margin``, ``dlr``, or ``dlr_targeted``: a run for each of the likeliest wrong classes.
        restarts: number of runs (for each target).
        targets: of ``dlr_targeted``, at most; the likeliest wrong classes by mean logits on the clean image.
        rho: share of the steps that must raise the loss.
    """

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        steps: int = 100,
        loss: str = "ce",
        restarts: int = 1,
        targets: int = 9,
        rho: float = 0.75,
        evaluations: int = 20,
    ) -> None:
        super().__init__(norm, eps, steps, evaluations)
        require(restarts >= 1, "restarts", restarts, "1 or more")
        require(targets >= 1, "targets", targets, "1 or more")
        require(0.0 <= rho <= 1.0, "rho", rho, "0 to 1")
        self.loss, self.restarts, self.targets, self.rho = loss, restarts, targets, rho
        self.classes = TargetedDLR.classes if loss == "dlr_targeted" else find_loss(loss, "dlr_targeted").classes
        self.runs = restarts * (targets if loss == "dlr_targeted" else 1)
        self.steps = self.runs * (steps + 1)

    def attack(self, search: Search) -> Tensor:
        search.offer(search.all, search.x)
        self.pursue(search)
        return search.image

    def pursue(self, search: Search) -> None:
        """All runs, on the samples that the search still has open; the first run of a search attacks every sample."""
        for number in range(self.runs):
            rows = search.all if search.iteration == 0 else search.open()
            loss = self._loss(search, number // self.restarts)
            start = search.start(rows, NORMS[self.norm], self.eps)
            if loss is None or not len(rows):
                search.skip(self.run_length + 1)
                continue
            climb = self.climb(search, rows, start, loss.rows(rows))
            search.offer(rows, climb.weakest)
            search.offer(rows, climb.highest)

    def climb(self, search: Search, rows: Tensor, start: Tensor, loss: Loss) -> Climb:
        """One run for some rows of the search, from given starting points (N, C, H, W), on a loss of these rows."""
        norm, x = NORMS[self.norm], search.x[rows]
        x_adv = previous = start
        current = search.ask(rows, x_adv, loss)
        gradient = current.value
        highest, best_loss, best_gradient = x_adv, current.loss, gradient
        weakest, fewest = x_adv, current.correct
        step = x.new_full((len(x), *[1] * (x.ndim - 1)), 2.0 * self.eps)
        # The reference implementation compares the first iterate's loss with zero, not with the starting point's.
        losses = [torch.zeros_like(current.loss)]
        best_then, halved = best_loss, torch.ones_like(best_loss, dtype=torch.bool)
        interval, since = max(int(0.22 * self.run_length), 1), 0
        for i in range(self.run_length):
            share = MOMENTUM if i else 1.0
            z = norm.project(x_adv + step * norm.direction(gradient), x, self.eps)
            moved = x_adv + (z - x_adv) * share + (x_adv - previous) * (1.0 - share)
            previous, x_adv = x_adv, norm.project(moved, x, self.eps)

            current = search.ask(rows, x_adv, loss)
            gradient = current.value
            fooled = current.correct <= fewest
            weakest, fewest = _where(fooled, x_adv, weakest), torch.minimum(current.correct, fewest)
            higher = current.loss > best_loss
            highest, best_gradient = _where(higher, x_adv, highest), _where(higher, gradient, best_gradient)
            best_loss = torch.where(higher, current.loss, best_loss)
            losses.append(current.loss)

            since += 1
            if since == interval:
                recent = torch.stack(losses[-interval - 1 :])
                rises = (recent[1:] > recent[:-1]).sum(dim=0)
                halved = (rises <= self.rho * interval) | (~halved & (best_then >= best_loss))
                best_then = best_loss
                step = _where(halved, step / 2.0, step)
                x_adv, gradient = _where(halved, highest, x_adv), _where(halved, best_gradient, gradient)
                less, least = (max(int(share * self.run_length), 1) for share in (0.03, 0.06))
                interval, since = max(interval - less, least), 0
        return Climb(highest, best_loss, weakest, fewest)

    def _loss(self, search: Search, target: int) -> Loss | None:
        """The loss of a run for all of the search's images; None where there are too few classes for the target."""
        if self.loss != "dlr_targeted":
            return find_loss(self.loss)
        ranked = search.likeliest_wrong()
        return TargetedDLR(ranked[:, target]) if target < ranked.shape[1] else None

    def __str__(self) -> str:
        names = {"ce": "APGD-CE", "dlr": "APGD-DLR", "dlr_targeted": "APGD-T"}
        targets = f"{self.targets} targets" if self.loss == "dlr_targeted" else None
        restarts = f"{self.restarts} restarts" if self.restarts > 1 else None
        return self.title(names.get(self.loss, f"APGD-{self.loss}"), f"{self.run_length} steps", targets, restarts)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Image by image: a where the condition (N,) holds, else b."""
    return torch.where(condition.view(-1, *[1] * (a.ndim - 1)), a, b)
