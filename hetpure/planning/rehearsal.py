"""What an attack asks for, found by letting it run against a defense that costs nothing."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hetpure.attacks.base import Attack
from hetpure.attacks.gradients import Evaluation, Gradient, GradientSource
from hetpure.attacks.losses import LOSSES, Loss

Kind = Literal["gradient", "evaluate", "scores", "logits"]


@dataclass(frozen=True)
class Request:
    """One call of a gradient source.

    Attributes:
        kind: which of its methods.
        count: draws an image, of ``evaluate`` and ``scores``; rows, of ``logits``.
        gradient: whether logits were asked for with a gradient.
    """

    kind: Kind
    count: int = 1
    gradient: bool = False


class Rehearsal:
    """A ``GradientSource`` that notes what it is asked and answers anything.

    Args:
        source: the one it stands for.
        classes: K.
        falls: whether every evaluation is wrong (an attack that leaves broken samples alone then stops as early as it
            can), or none.

    Attributes:
        asked: how often each request came.
    """

    def __init__(self, source: GradientSource, classes: int, falls: bool) -> None:
        self.source, self.classes, self.falls = source, classes, falls
        self.asked: Counter[Request] = Counter()

    @property
    def seed(self) -> int:
        return self.source.seed

    @property
    def eot(self) -> int:
        return self.source.eot

    @property
    def stochastic(self) -> bool:
        return self.source.stochastic

    def to(self, device: torch.device) -> None:
        """See ``GradientSource``."""

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.asked[Request("gradient")] += 1
        return Gradient(torch.ones_like(x), x.new_zeros(len(x)), self._correct(x))

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int) -> Evaluation:
        self.asked[Request("evaluate", count)] += 1
        return Evaluation(self._correct(x), x.new_zeros(len(x)))

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        self.asked[Request("scores", count)] += 1
        return self._logits(x)

    def logits(self, x: Tensor, sample: Tensor, call: int) -> Tensor:
        self.asked[Request("logits", len(x), torch.is_grad_enabled() and x.requires_grad)] += 1
        return self._logits(x)

    def _correct(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.0 if self.falls else 1.0)

    def _logits(self, x: Tensor) -> Tensor:
        """Class 0, the label of the rehearsal, far ahead or far behind; a gradient that is small but not zero."""
        ahead = x.new_zeros(self.classes)
        ahead[0] = -1000.0 if self.falls else 1000.0
        return ahead + 1e-3 * x.flatten(1).mean(dim=1, keepdim=True) * torch.arange(self.classes, device=x.device)


def rehearse(
    attack: Attack, source: GradientSource, classes: int, image_shape: tuple[int, int, int], falls: bool = False
) -> Counter[Request]:
    """What an attack asks for one image; see ``Rehearsal``.

    Args:
        attack: the attack.
        source: what it will ask.
        classes: K.
        image_shape: (C, H, W).
        falls: whether the image is broken from the start.
    """
    stand_in = Rehearsal(source, classes, falls)
    zero = torch.zeros(1, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        attack(stand_in, torch.full((1, *image_shape), 0.5), zero, zero)
    return stand_in.asked
