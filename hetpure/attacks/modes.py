"""Other views of the defense than the exact one: a mode's constructor arguments are its config keys."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.gradients import Evaluation, ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import PurifiedClassifier, ensemble_scores
from hetpure.noise import Draws, defense_draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier, MaskAwarePurifier
from hetpure.purification.mask import Relaxation
from hetpure.purification.none import NoPurifier


class BPDAGradient(ExactGradient):
    """Backward pass differentiable approximation (Athalye et al. 2018): the purifier forward, the identity backward.

    The gradient at the purified image is taken for the gradient at the image. No graph of the denoiser is made.

    Args:
        process: see ``ExactGradient``.
        eot: see ``ExactGradient``.
        seed: see ``ExactGradient``.
    """

    words = "BPDA"

    def see(self, x: Tensor, draws: Draws, prepared: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            purified = self.process.purifier.purify(x, draws, *prepared)
        passed = _StraightThrough.apply(x, purified)
        assert isinstance(passed, Tensor)
        return self.process.classifier(passed)


class BlindGradient(ExactGradient):
    """The gradient of the bare classifier, by an attacker who does not know of the purifier: a transfer attack.

    Args:
        process: see ``ExactGradient``; its purifier is not looked at.
        eot: see ``ExactGradient``; without a purifier one draw says it all.
        seed: see ``ExactGradient``.
    """

    words = "blind: bare classifier"

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        super().__init__(process.behind(NoPurifier()), eot, seed)


class MaskAwareGradient(ExactGradient):
    """Exact but for the mask, which is relaxed so that the attacker can move it; see ``MaskAwarePurifier``.

    Args:
        process: see ``ExactGradient``; its purifier is heterogeneous.
        eot: see ``ExactGradient``.
        seed: see ``ExactGradient``.
        temperature: width of the sigmoid around the mask's threshold, in units of the attention map (0 to 1).
        forward: ``soft`` lets the relaxed mask purify too; ``hard`` purifies with the defense's mask and takes the
            relaxed one's gradient (straight through).

    Raises:
        ValueError: names the argument that cannot be.
    """

    words = "mask-aware: {forward}, temperature {temperature:g}"

    def __init__(
        self,
        process: PurifiedClassifier,
        eot: int,
        seed: int,
        temperature: float = 0.1,
        forward: Relaxation = "hard",
    ) -> None:
        if not isinstance(process.purifier, HeterogeneousPurifier):
            raise ValueError(
                "name = 'mask_aware' needs a purifier with a mask: accepted is purifier.name heterogeneous"
            )
        super().__init__(process.behind(MaskAwarePurifier(process.purifier, temperature, forward)), eot, seed)
        self.words = self.words.format(forward=forward, temperature=temperature)


class KnownDrawsGradient(ExactGradient):
    """The defender's own draws, fixed and known to the attacker: the deterministic white box (DW-box).

    What is differentiated is the defense's one prediction: the loss of Algorithm 3's joined scores over its S
    purifications, with the numbers that ``PurifiedClassifier.forward`` draws for that sample. For ``vote``, which has
    no gradient, the mean of probabilities stands in. Valid against predictions with those draws alone, not against
    resubmissions with others.

    Args:
        process: the defense process itself, with its ensemble and its seed.
        eot: not used: nothing is random.
        seed: of the attacker's own draws (random starts).
    """

    words = "deterministic: the defender's draws are known"

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        super().__init__(process, 1, seed)

    @property
    def stochastic(self) -> bool:
        return False

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        """See ``GradientSource``. Two passes: how each purification's logits push the joined loss, then that push."""
        process, draws = self.process, self._draws(sample)
        with torch.no_grad():
            each = process.purified_logits(x, draws).unflatten(0, (len(x), -1))
        with torch.enable_grad():
            leaf = each.requires_grad_()
            value = loss(self._joined(leaf), label)
            (push,) = torch.autograd.grad(value.sum(), leaf)
        push, gradients = push.flatten(0, 1), []
        start = 0
        for chunk in process.chunks(x, draws):
            weight = push.new_zeros(len(chunk.x), push.shape[1])  # padding pushes nowhere
            weight[: chunk.real] = push[start : start + chunk.real]
            start += chunk.real
            with torch.enable_grad():
                rows = chunk.x.detach().requires_grad_()
                logits = self.see(rows, chunk.draws, chunk.prepared)
                (gradient,) = torch.autograd.grad(logits, rows, weight)
            gradients.append(gradient[: chunk.real])
        rows_of_each = torch.cat(gradients).unflatten(0, (len(x), -1))
        total = rows_of_each[:, 0]
        for draw in range(1, rows_of_each.shape[1]):
            total = total + rows_of_each[:, draw]
        return Gradient(total, value.detach(), self._correct(each.detach(), label).to(x.dtype))

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int) -> Evaluation:
        """See ``GradientSource``; once is enough."""
        with torch.no_grad():
            each = self.process.purified_logits(x, self._draws(sample)).unflatten(0, (len(x), -1))
        return Evaluation(self._correct(each, label).to(x.dtype), LOSSES["margin"](self._joined(each), label))

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        """See ``GradientSource``: the joined scores."""
        with torch.no_grad():
            return self._joined(self.process.purified_logits(x, self._draws(sample)).unflatten(0, (len(x), -1)))

    def logits(self, x: Tensor, sample: Tensor, call: int) -> Tensor:
        """See ``GradientSource``: the joined scores, in one graph."""
        draws = self._draws(sample)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(len(draws) // len(x))
        prepared = self._prepared(x)
        parts = torch.arange(len(draws), device=x.device).split(self.process.chunk_size)
        each = [self.see(x[owner[p]], draws.rows(p), [t[owner[p]] for t in prepared]) for p in parts]
        return self._joined(torch.cat(each).unflatten(0, (len(x), -1)))

    def _draws(self, sample: Tensor) -> Draws:
        return defense_draws(self.process.seed, sample, self.process.ensemble_size)

    def _joined(self, each: Tensor) -> Tensor:
        """Logits (B, K) whose softmax, order and gradient are those of the joined scores."""
        if self.process.ensemble_mode == "mean_logits":
            return each.mean(dim=1)
        return each.log_softmax(dim=2).logsumexp(dim=1) - torch.tensor(float(each.shape[1])).log().to(each)

    def _correct(self, each: Tensor, label: Tensor) -> Tensor:
        return ensemble_scores(each, self.process.ensemble_mode).argmax(dim=1) == label


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the first one's place in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0], None
