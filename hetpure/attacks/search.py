"""The bookkeeping of attacks that try more than once: restarts, several losses, several targets."""

import torch
from torch import Tensor

from hetpure.attacks.base import Observer
from hetpure.attacks.gradients import Gradient, GradientSource
from hetpure.attacks.losses import Loss
from hetpure.attacks.norms import Norm
from hetpure.noise import Draws


class Search:
    """The strongest image found so far of each sample, and the counters that key every draw on the way.

    A randomised defense gets any image wrong now and then. So no image is kept, and no sample given up, on the strength
    of one evaluation: every candidate goes through the attack process ``evaluations`` times, with draws of the
    attacker's that no gradient has seen and that are the same for all candidates of a sample. The candidate with the
    smallest share of right answers stays (among equals, the one with the larger mean margin), and a sample is *broken*,
    and left alone from then on, only where all its evaluations are wrong. A process that is not stochastic needs one
    evaluation and gets one. What is reported is never this share, which the choice flatters, but the defender's own
    evaluation of the image that is returned.

    Args:
        gradient: the defense as the attacker sees it.
        x: clean images (B, C, H, W) in [0, 1].
        label: (B,) true classes.
        sample: (B,) dataset indices.
        evaluations: how often each candidate is tried.
        observe: called after every iteration with a gradient for all B samples; those left alone keep their last.
    """

    def __init__(
        self,
        gradient: GradientSource,
        x: Tensor,
        label: Tensor,
        sample: Tensor,
        evaluations: int,
        observe: Observer | None = None,
    ) -> None:
        self.gradient, self.x, self.label, self.sample = gradient, x, label, sample
        self.evaluations, self.observe = evaluations, observe
        self.image = x
        self.correct = x.new_full((len(x),), float("inf"))
        self.margin = x.new_full((len(x),), float("-inf"))
        self.iteration = self.starts = 0
        self._last: Gradient | None = None
        self._ranked: Tensor | None = None

    @property
    def all(self) -> Tensor:
        """Row numbers of all samples."""
        return torch.arange(len(self.x), device=self.x.device)

    def open(self) -> Tensor:
        """Row numbers of the samples that are not surely broken."""
        return (self.correct > 0.0).nonzero()[:, 0]

    def offer(self, rows: Tensor, images: Tensor) -> None:
        """Tries the images of some rows out and keeps those that are better than what there is."""
        still = self.correct[rows] > 0.0
        rows, images = rows[still], images[still]
        if not len(rows):
            return
        found = self.gradient.evaluate(images, self.label[rows], self.sample[rows], self.evaluations)
        old_correct, old_margin = self.correct[rows], self.margin[rows]
        better = (found.correct < old_correct) | ((found.correct == old_correct) & (found.margin > old_margin))
        rows = rows[better]
        self.image = self.image.index_copy(0, rows, images[better])
        self.correct = self.correct.index_copy(0, rows, found.correct[better])
        self.margin = self.margin.index_copy(0, rows, found.margin[better])

    def ask(self, rows: Tensor, images: Tensor, loss: Loss) -> Gradient:
        """The gradient of a loss (of these rows' images) at the images of some rows: one iteration."""
        found = self.gradient(images, self.label[rows], self.sample[rows], self.iteration, loss)
        if self.observe is not None:
            self._last = found if len(rows) == len(self.x) else self._merged(rows, found)
        self._tell()
        return found

    def likeliest_wrong(self) -> Tensor:
        """The wrong classes of each sample, likeliest first by mean logits on its clean image, (B, K - 1)."""
        if self._ranked is None:
            scores = self.gradient.scores(self.x, self.sample, self.evaluations)
            others = scores.scatter(1, self.label[:, None], float("-inf"))
            self._ranked = others.argsort(dim=1, descending=True)[:, :-1]
        return self._ranked

    def skip(self, iterations: int) -> None:
        """Iterations that no sample needs: the counters move on as if there had been some in the batch that did."""
        for _ in range(iterations):
            self._tell()

    def start(self, rows: Tensor, norm: Norm, eps: float) -> Tensor:
        """Random starting points in the ball's crust and in [0, 1], keyed by how many starts there were."""
        x = self.x[rows]
        draws = Draws(self.gradient.seed, "attack", self.sample[rows], torch.full_like(rows, self.starts))
        self.starts += 1
        return (x + eps * norm.noise(draws, x)).clamp(0.0, 1.0)

    def _tell(self) -> None:
        if self.observe is not None:
            assert self._last is not None
            self.observe(self.iteration, self._last)
        self.iteration += 1

    def _merged(self, rows: Tensor, found: Gradient) -> Gradient:
        last = self._last
        assert last is not None, "the first iteration is all samples'"
        parts = ((last.value, found.value), (last.loss, found.loss), (last.correct, found.correct))
        return Gradient(*(old.index_copy(0, rows, new) for old, new in parts))


def check_evaluations(evaluations: int) -> None:
    """Raises ValueError for a count below 1."""
    if evaluations < 1:
        raise ValueError(f"evaluations = {evaluations} must be at least 1")
