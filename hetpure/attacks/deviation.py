"""DiffAttack's deviated-reconstruction loss (Kang et al. 2023), as a gradient mode for any loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient, Gradient, Select
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.errors import ConfigError, RunError, require
from hetpure.models.denoisers import Shelf
from hetpure.noise import Draws
from hetpure.purification.trajectory import watched


class DeviationGradient(ExactGradient):
    """Exact gradient of L + weight * mean_t |x'(t) - x(t)|^2 / pixels (eqs. 8 and 11 of the paper).

    The mean is over the states x'(t) after each denoising step, of all rounds; x(t) is the image diffused to the same
    level with the noise that the round began with. Both depend on the attacked image, scaled to [-1, 1]. The weights
    alpha(t) are the paper's, the reciprocal of the number of steps (appendix D.2), where ``weight`` is 1. DiffHammer's
    code has alpha(t) abar(t) / 2.

    Args:
        process, eot, seed: see ``ExactGradient``.
        weight: lambda, above 0.

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
        raise ConfigError("attack.gradient.name", found="deviation", accepted="any other, to graft gradients")

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        """Refused: whoever asks for logits has a loss of its own."""
        raise ConfigError("attack.gradient.name", found="deviation", accepted="any other, to ask for logits")

    def _of_draws(
        self, x: Tensor, label: Tensor, draws: Draws, loss: Loss, view: Callable[[Chunk], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        deviation = Deviation()

        def watched_view(chunk: Chunk) -> tuple[Tensor, Tensor]:
            deviation.of_states.clear()
            with watched(deviation.add):
                return view(chunk)

        return super()._of_draws(x, label, draws, _WithDeviation(loss, deviation, self.weight), watched_view)


class Deviation:
    """mean_t |x'(t) - x(t)|^2 / pixels of each row, over states as they come."""

    def __init__(self) -> None:
        self.of_states: list[Tensor] = []
        self._shelf = Shelf()

    def add(self, state: Tensor, diffused: Tensor) -> None:
        """Adds a state x'(t) and the diffused image x(t), (N, C, H, W)."""
        distance = _MeanSquare.apply(state, diffused, self._shelf)
        assert isinstance(distance, Tensor)
        self.of_states.append(distance)

    def mean(self) -> Tensor:
        """The deviation of each row, (N,); RunError where a purifier has reported no state, though it says it does."""
        if not self.of_states:
            raise RunError("attack.gradient deviation: the purifier reports no states (has_trail says that it does)")
        return torch.stack(self.of_states).mean(dim=0)


class _MeanSquare(torch.autograd.Function):
    """The mean squared difference of each row, which keeps the difference on a shelf: one image a step."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, shelf: Shelf) -> Tensor:
        difference = a - b
        ctx.difference = shelf.keep(difference)
        return difference.square().flatten(1).mean(dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        difference: Tensor = ctx.difference
        at_a = difference * (grads[0] * (2.0 / difference[0].numel())).view(-1, *[1] * (difference.ndim - 1))
        return at_a, -at_a, None


class _WithDeviation(Loss):
    """A loss of logits with that of the states which led to them."""

    def __init__(self, loss: Loss, deviation: Deviation, weight: float) -> None:
        self.loss, self.deviation, self.weight = loss, deviation, weight

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        return self.loss(logits, label) + self.weight * self.deviation.mean()

    def rows(self, index: Tensor) -> Loss:
        return _WithDeviation(self.loss.rows(index), self.deviation, self.weight)
