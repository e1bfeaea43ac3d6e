"""Other views of the defense than the exact one: a mode's constructor arguments are its config keys."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.gradients import Evaluation, ExactGradient, Gradient, Select, sum_over_draws
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.protocols import ensemble_scores
from hetpure.errors import ConfigError
from hetpure.noise import Draws, defense_draws
from hetpure.purification.heterogeneous import HeterogeneousPurifier, MaskAwarePurifier
from hetpure.purification.mask import Relaxation
from hetpure.purification.none import NoPurifier


class BPDAGradient(ExactGradient):
    """Backward pass differentiable approximation (Athalye et al. 2018): the purifier forward, the identity backward.

    The gradient at the purified image is taken for the gradient at the image. No graph of the denoiser is made.
    """

    description = "BPDA"
    graft_purifications = 0

    def see(self, x: Tensor, draws: Draws, prepared: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            purified = self.process.purifier.purify(x, draws, *prepared)
        passed = _StraightThrough.apply(x, purified)
        assert isinstance(passed, Tensor)
        return self.process.classify(passed, draws)

    def to_image(self, x: Tensor, draws: Draws, gradient: Tensor) -> Tensor:
        return gradient


class BlindGradient(ExactGradient):
    """The gradient of the bare classifier, by an attacker who does not know of the purifier: a transfer attack."""

    description = "blind: bare classifier"

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        super().__init__(process.behind(NoPurifier()), eot, seed)


class MaskAwareGradient(ExactGradient):
    """Exact but for the mask, which is relaxed so that the attacker can move it; see ``MaskAwarePurifier``.

    Args:
        process, eot, seed: see ``ExactGradient``.
        temperature: width of the sigmoid around the mask's threshold, in units of the attention map (0 to 1).
        forward: ``soft`` lets the relaxed mask purify too; ``hard`` purifies with the defense's mask and takes the
            relaxed one's gradient (straight through).
    """

    def __init__(
        self, process: PurifiedClassifier, eot: int, seed: int, temperature: float = 0.1, forward: Relaxation = "hard"
    ) -> None:
        if not isinstance(process.purifier, HeterogeneousPurifier):
            problem = "which needs a purifier with a mask: purifier.name heterogeneous"
            raise ConfigError("name", problem, found="mask_aware")
        super().__init__(process.behind(MaskAwarePurifier(process.purifier, temperature, forward)), eot, seed)
        self.description = f"mask-aware: {forward}, temperature {temperature:g}"


class KnownDrawsGradient(ExactGradient):
    """The defender's own draws, fixed and known to the attacker: the deterministic white box (DW-box).

    What is differentiated is the defense's one prediction: the loss of Algorithm 3's joined scores over its S
    purifications, with the numbers that ``PurifiedClassifier.forward`` draws for that sample. For ``vote``, which has
    no gradient, the mean of probabilities stands in. Valid against predictions with those draws alone, not against
    resubmissions with others. ``process`` is the defense itself, with its ensemble and its seed; ``eot`` is not used,
    since nothing is random; ``seed`` keys the attacker's random starts.
    """

    description = "deterministic: the defender's draws are known"
    graft_purifications = 0

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int) -> None:
        super().__init__(process, 1, seed)
        self.stochastic, self.purifications = False, process.ensemble_size

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        # Two passes: the joined loss's gradient at each purification's logits, then those logits' at the images.
        logits = self._purified_logits(x, sample)
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            value = loss(self._joined(leaf), label)
            (logit_gradient,) = torch.autograd.grad(value.sum(), leaf)
        gradients = self.pull_back(x, self._draws(sample), logit_gradient.flatten(0, 1), self.see)
        correct = self._correct(logits.detach(), label).to(x.dtype)
        return Gradient(sum_over_draws(gradients, len(x)), value.detach(), correct)

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        """See ``GradientSource``; all known draws are joined in one loss, so none is left out."""
        return self(x, label, sample, iteration, loss)

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        logits = self._purified_logits(x, sample)
        correct, margin = self._correct(logits, label).to(x.dtype), LOSSES["margin"](self._joined(logits), label)
        return Evaluation(correct, margin, self.purifications)

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        return self._joined(self._purified_logits(x, sample))

    def logits(self, x: Tensor, sample: Tensor, call: int, count: int = 1) -> Tensor:
        draws = self._draws(sample)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(len(draws) // len(x))
        prepared = self._prepared(x)
        parts = torch.arange(len(draws), device=x.device).split(self.process.chunk_size)
        logits = [self.see(x[owner[p]], draws.rows(p), [t[owner[p]] for t in prepared]) for p in parts]
        return self._joined(torch.cat(logits).unflatten(0, (len(x), -1)))

    def _draws(self, sample: Tensor) -> Draws:
        return defense_draws(self.process.seed, sample, self.process.ensemble_size)

    def _purified_logits(self, x: Tensor, sample: Tensor) -> Tensor:
        with torch.no_grad():
            return self.process.purified_logits(x, self._draws(sample)).unflatten(0, (len(x), -1))

    def _joined(self, logits: Tensor) -> Tensor:
        """Of (B, S, K), logits (B, K) whose softmax, order and gradient are those of the joined scores."""
        if self.process.ensemble_mode == "mean_logits":
            return logits.mean(dim=1)
        return logits.log_softmax(dim=2).logsumexp(dim=1) - torch.tensor(float(logits.shape[1])).log().to(logits)

    def _correct(self, logits: Tensor, label: Tensor) -> Tensor:
        return ensemble_scores(logits, self.process.ensemble_mode).argmax(dim=1) == label


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the first one's place in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0], None
