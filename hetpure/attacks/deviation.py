"""DiffAttack's deviated-reconstruction loss (Kang et al. 2023), as a gradient mode for any attack and any loss."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient, Gradient, Select
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.errors import ConfigError, require
from hetpure.noise import Draws
from hetpure.purification.trajectory import Pair, watched


class DeviationGradient(ExactGradient):
    """Exact gradient of L + weight * mean_t abar(t) |x'(t) - x(t)|^2 / pixels.

    The mean is over the states x'(t) after each denoising step; x(t) is the image diffused to the same level with the
    noise that the purification began with, and both depend on the attacked image, in [-1, 1]. A draw whose purification
    strays from its image is one that the classifier may follow; and the terms late in the process have a short way
    back. The published abstract leaves the weights over t open; abar(t) is that of DiffHammer's implementation, whose
    weight is 0.5 here.

    Args:
        process, eot, seed: see ``ExactGradient``.
        weight: of the mean over states, above 0.

    Raises:
        ConfigError: for a weight that is not above 0, or a purifier that has no states.
    """

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, weight: float = 1.0) -> None:
        require(0.0 < weight < math.inf, "weight", weight, "above 0, finite")
        if not process.purifier.has_trail:
            problem = "which needs a purifier that denoises in steps and reports them"
            raise ConfigError("name", problem, found="deviation")
        super().__init__(process, eot, seed)
        self.weight, self.description = weight, f"exact, deviated reconstruction {weight:g}"

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        """Refused: grafts start at the purified image, and the states are before it."""
        accepted = "any other with an attack that grafts gradients"
        raise ConfigError("attack.gradient.name", found="deviation", accepted=accepted)

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        """Refused: code from elsewhere has a loss of its own."""
        accepted = "any other with an attack of another library"
        raise ConfigError("attack.gradient.name", found="deviation", accepted=accepted)

    def _of_draws(
        self, x: Tensor, label: Tensor, draws: Draws, loss: Loss, view: Callable[[Chunk], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairs: list[Pair] = []

        def watched_view(chunk: Chunk) -> tuple[Tensor, Tensor]:
            pairs.clear()
            with watched(pairs.append):
                return view(chunk)

        return super()._of_draws(x, label, draws, _WithDeviation(loss, pairs, self.weight), watched_view)


class _WithDeviation(Loss):
    """A loss of logits with that of the states which led to them."""

    def __init__(self, loss: Loss, pairs: Sequence[Pair], weight: float) -> None:
        self.loss, self.pairs, self.weight = loss, pairs, weight

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        return self.loss(logits, label) + self.weight * deviation(self.pairs)

    def rows(self, index: Tensor) -> Loss:
        return _WithDeviation(self.loss.rows(index), self.pairs, self.weight)


def deviation(pairs: Sequence[Pair]) -> Tensor:
    """mean_t abar(t) |x'(t) - x(t)|^2 / pixels of each row, (N,)."""
    each = [abar * (state - diffused).square().flatten(1).mean(dim=1) for abar, state, diffused in pairs]
    return torch.stack(each).mean(dim=0)
