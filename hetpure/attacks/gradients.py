"""The attacker's view of the defense: gradients through the whole attack process, averaged over EOT draws.

This file has the gradient that approximates nothing. ``modes.py`` has the other views.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import Chunk, PurifiedClassifier
from hetpure.errors import ConfigError, require
from hetpure.noise import Draws, attack_draws, selection_draws


@dataclass(frozen=True)
class Gradient:
    """What an attack learns in one iteration: mean gradient (B, C, H, W), mean loss and share of right draws (B,)."""

    value: Tensor
    loss: Tensor
    correct: Tensor


Select = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the losses (N,) of an image's draws and their gradients at the purified images (N, C, H, W): the numbers (K,) of
the draws on which gradients are grafted, K the same for every image, and the gradients (K, C, H, W) to graft."""


View = Callable[[Tensor, Draws, Sequence[Tensor]], Tensor]
"""Of a chunk's rows, their draws and what is prepared for them, something differentiable: such as the logits."""


@dataclass(frozen=True)
class Evaluation:
    """What the attacker finds when it tries its images out, without gradients: the share of right evaluations, (B,).

    The mean margin max_{k != y} z_k - z_y, (B,), tells images with equal shares apart. ``purifications`` of each image
    went into it.
    """

    correct: Tensor
    margin: Tensor
    purifications: int = 0


class GradientSource(Protocol):
    """Anything an attack can ask for a gradient.

    Attributes:
        seed: of the attacker's draws; an attack keys its own (a random start) by it too.
        eot: draws per image and iteration.
        stochastic: whether two evaluations of one image can differ.
    """

    seed: int
    eot: int
    stochastic: bool

    @property
    def num_classes(self) -> int:
        """K, of the logits."""
        ...

    def to(self, device: torch.device) -> None:
        """Brings the attack process to a device."""

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        """Gradient of the loss at images x (B, C, H, W) in [0, 1] with their labels and dataset indices (B,)."""
        ...

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        """The same with gradient grafting (Wang et al. 2024): cheap for all draws but the few that are selected.

        The gradients at the purified images are taken for all draws. What ``select`` makes of them is brought back to
        the images, d purified / d x, through the selected draws, and averaged. Loss and share are means of all draws.
        """
        ...

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        """Tries images x out with ``count`` draws of the attacker's, from number ``first``, that no gradient sees."""
        ...

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        """Mean logits (B, K) over the same draws as ``evaluate``'s first."""
        ...

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        """Mean logits (B, K) of some draws an image, differentiable: the defense as code from elsewhere wants it.

        The draws are keyed by the sample and the number of the call; ``count`` of them are averaged.
        """
        ...


class GradientWrapper:
    """Base class of a gradient source around another: everything is the other's unless a subclass overrides it."""

    def __init__(self, source: GradientSource) -> None:
        self.source = source
        self.seed, self.eot, self.stochastic = source.seed, source.eot, source.stochastic

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    def to(self, device: torch.device) -> None:
        self.source.to(device)

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        return self.source(x, label, sample, iteration, loss)

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        return self.source.graft(x, label, sample, iteration, select, loss)

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        return self.source.evaluate(x, label, sample, count, first)

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        return self.source.scores(x, sample, count)

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        return self.source.logits(x, sample, call, count)


class ExactGradient:
    """EOT gradient of a loss through mask-conditioned purification and classifier, nothing approximated.

    The mask is an indicator, so its own derivative is zero and the rest of the graph is all there is. All draws of all
    images go out together, in chunks of the attack process's chunk size; fresh draws in every iteration, never the
    defender's.

    Args:
        process: the attack process: the defense itself, or a coarser surrogate of it.
        eot: draws per image and iteration; one where the purifier is not stochastic.
        seed: of the attacker's draws.

    Attributes:
        purifications: of an image, that one gradient goes through.
        graft_purifications: and those of each graft, beside them.
    """

    description = "exact"
    graft_purifications = 1

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        require(eot >= 1, "eot", eot, "1 or more")
        self.process, self.seed = process, seed
        self.stochastic = process.stochastic
        self.eot = self.purifications = eot if self.stochastic else 1

    @property
    def num_classes(self) -> int:
        return self.process.num_classes

    def to(self, device: torch.device) -> None:
        self.process.to(device)

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        draws = attack_draws(self.seed, sample, iteration, self.eot)

        def view(chunk: Chunk) -> tuple[Tensor, Tensor]:
            rows = chunk.x.detach().requires_grad_()
            return rows, self.see(rows, chunk.draws, chunk.prepared)

        return Gradient(*(mean_over_draws(part, len(x)) for part in self._of_draws(x, label, draws, loss, view)))

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        mode = type(self)
        has_own_view = mode.see is not ExactGradient.see or mode.__call__ is not ExactGradient.__call__
        if has_own_view and mode.to_image is ExactGradient.to_image:
            raise ConfigError("attack.gradient", "which does not define to_image for grafts", found=mode.__name__)
        draws = attack_draws(self.seed, sample, iteration, self.eot)

        def view(chunk: Chunk) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                purified = self.process.purifier.purify(chunk.x, chunk.draws, *chunk.prepared)
            purified = purified.detach().requires_grad_()
            return purified, self.process.classify(purified, chunk.draws)

        gradients, losses, hits = self._of_draws(x, label, draws, loss, view)
        # Image by image, from copies: matrix products round by their shapes, and by where in memory they start.
        of_images = zip(losses.split(self.eot), gradients.split(self.eot), strict=True)
        numbers, grafts = zip(*(select(*(part.clone() for part in of_image)) for of_image in of_images), strict=True)
        first = self.eot * torch.arange(len(x), device=x.device)[:, None]
        value = self.to_image(x, draws.rows((first + torch.stack(numbers)).flatten()), torch.cat(grafts))
        return Gradient(*(mean_over_draws(part, len(x)) for part in (value, losses, hits)))

    def see(self, x: Tensor, draws: Draws, prepared: Sequence[Tensor]) -> Tensor:
        """Logits (N, K) of one chunk's rows x, as the attacker differentiates them."""
        return self.process.classify(self.process.purifier.purify(x, draws, *prepared), draws)

    def to_image(self, x: Tensor, draws: Draws, gradient: Tensor) -> Tensor:
        """Each draw's gradient at its purified image, (N, C, H, W), to that at its image; x is (B, C, H, W), B <= N."""

        def purified(rows: Tensor, draws: Draws, prepared: Sequence[Tensor]) -> Tensor:
            return self.process.purifier.purify(rows, draws, *prepared)

        return self.pull_back(x, draws, gradient, purified)

    def pull_back(self, x: Tensor, draws: Draws, gradient: Tensor, function: View) -> Tensor:
        """Each draw's gradient at the function's value, (N, ...), to that at its image, (N, C, H, W)."""
        gradients, start = [], 0
        for chunk in self.process.chunks(x, draws):
            weight = gradient.new_zeros(len(chunk.x), *gradient.shape[1:])  # zero for the padding
            weight[: chunk.real] = gradient[start : start + chunk.real]
            start += chunk.real
            with torch.enable_grad():
                rows = chunk.x.detach().requires_grad_()
                (at_image,) = torch.autograd.grad(function(rows, chunk.draws, chunk.prepared), rows, weight)
            gradients.append(at_image[: chunk.real])
        return torch.cat(gradients)

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        logits = self._selection_logits(x, sample, count, first)
        each = len(logits) // len(x)
        labels = label.repeat_interleave(each)
        correct = (logits.argmax(dim=1) == labels).to(x.dtype)
        means = (mean_over_draws(part, len(x)) for part in (correct, LOSSES["margin"](logits, labels)))
        return Evaluation(*means, purifications=each)

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        return mean_over_draws(self._selection_logits(x, sample, count), len(x))

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        draws = attack_draws(self.seed, sample, call, count)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(count)
        # As many rows as there are: whoever asks here decides the shape, and gets the same numbers for the same shape.
        parts = torch.arange(len(draws), device=x.device).split(self.process.chunk_size)
        logits = [self.see(x[owner[p]], draws.rows(p), self._prepared(x[owner[p]])) for p in parts]
        return mean_over_draws(torch.cat(logits), len(x)) if count > 1 else torch.cat(logits)

    def __str__(self) -> str:
        """The mode in a few words, for tables."""
        return self.description

    def _of_draws(
        self, x: Tensor, label: Tensor, draws: Draws, loss: Loss, view: Callable[[Chunk], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients, losses and right answers of all draws; ``view`` gives a chunk's leaf and the logits behind it."""
        gradients, losses, hits = [], [], []
        for chunk in self.process.chunks(x, draws):
            labels, real = label[chunk.image], chunk.real
            with torch.enable_grad():
                leaf, logits = view(chunk)
                value = loss.rows(chunk.image)(logits, labels)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            gradients.append(gradient[:real])
            losses.append(value[:real].detach())
            hits.append((logits.argmax(dim=1) == labels)[:real].to(x.dtype))
        return torch.cat(gradients), torch.cat(losses), torch.cat(hits)

    def _prepared(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.process.purifier.prepare(x.detach())

    def _selection_logits(self, x: Tensor, sample: Tensor, count: int, first: int = 0) -> Tensor:
        """Logits (B * count, K) without gradients, or (B, K) where all evaluations are the same."""
        draws = selection_draws(self.seed, sample, count if self.stochastic else 1, first)
        with torch.no_grad():
            return torch.cat([self.see(c.x, c.draws, c.prepared)[: c.real] for c in self.process.chunks(x, draws)])


def sum_over_draws(rows: Tensor, images: int) -> Tensor:
    """Sum over each image's draws, (B * D, ...) to (B, ...), in an order that does not depend on the batch."""
    of_each = rows.unflatten(0, (images, len(rows) // images))
    total = of_each[:, 0]
    for draw in range(1, of_each.shape[1]):
        total = total + of_each[:, draw]
    return total


def mean_over_draws(rows: Tensor, images: int) -> Tensor:
    """Mean over each image's draws; see ``sum_over_draws``."""
    return sum_over_draws(rows, images) / (len(rows) // images)
