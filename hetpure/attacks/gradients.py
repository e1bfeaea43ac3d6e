"""The attacker's view of the defense: gradients through the whole attack process, averaged over EOT draws."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from hetpure.noise import attack_draws
from hetpure.purification.classifier import PurifiedClassifier


@dataclass(frozen=True)
class Gradient:
    """What an attack learns in one iteration.

    Attributes:
        value: mean gradient of the loss, (B, C, H, W).
        loss: mean loss of each image, (B,).
        correct: share of the image's draws that are still classified right, (B,).
    """

    value: Tensor
    loss: Tensor
    correct: Tensor


class GradientSource(Protocol):
    """Anything an attack can ask for a gradient."""

    def to(self, device: torch.device) -> None:
        """Brings the attack process to a device."""
        ...

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int) -> Gradient:
        """Gradient of the loss at images x (B, C, H, W) in [0, 1] with their labels and dataset indices (B,)."""
        ...


class ExactGradient:
    """EOT gradient of the cross-entropy through mask-conditioned purification and classifier, nothing approximated.

    The mask is an indicator, so its own derivative is zero and the rest of the graph is all there is. All draws of all
    images go out together, in chunks of the attack process's chunk size; fresh draws in every iteration, never the
    defender's.

    Args:
        process: the attack process: the defense itself, or a coarser surrogate of it.
        eot: draws per image and iteration; one where the purifier is not stochastic.
        seed: of the attacker's draws.

    Raises:
        ValueError: for eot below 1.
    """

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        if eot < 1:
            raise ValueError(f"eot = {eot} must be at least 1")
        self.process = process
        self.eot = eot if process.purifier.stochastic else 1
        self.seed = seed

    def to(self, device: torch.device) -> None:
        """See ``GradientSource``."""
        self.process.to(device)

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int) -> Gradient:
        """See ``GradientSource``."""
        process = self.process
        draws = attack_draws(self.seed, sample, iteration, self.eot)
        gradients, losses, hits = [], [], []
        for chunk in process.chunks(x, draws):
            of, real = label[chunk.image], chunk.real
            with torch.enable_grad():
                rows = chunk.x.detach().requires_grad_()
                logits = process.classifier(process.purifier.purify(rows, chunk.draws, *chunk.prepared))
                loss = functional.cross_entropy(logits, of, reduction="none")
                (gradient,) = torch.autograd.grad(loss.sum(), rows)
            gradients.append(gradient[:real])
            losses.append(loss[:real].detach())
            hits.append((logits.argmax(dim=1) == of)[:real].to(x.dtype))
        return Gradient(*(self._mean(parts, len(x)) for parts in (gradients, losses, hits)))

    def _mean(self, parts: list[Tensor], images: int) -> Tensor:
        """Mean over each image's draws, summed in a fixed order so that it does not depend on the batch."""
        rows = torch.cat(parts).unflatten(0, (images, self.eot))
        total = rows[:, 0]
        for draw in range(1, self.eot):
            total = total + rows[:, draw]
        return total / self.eot
