"""The bookkeeping of attacks that try more than once: restarts, several losses, several targets."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hetpure.attacks.gradients import Gradient, GradientSource, Select
from hetpure.attacks.losses import Loss
from hetpure.attacks.norms import Norm
from hetpure.noise import Draws

Observer = Callable[[int, Gradient], None]


class Search:
    """The strongest image so far of each sample, and the counters that key every draw.

    A randomised defense gets any image wrong now and then. So one evaluation decides nothing: every candidate goes
    through the attack process ``evaluations`` times, with draws of the attacker's that no gradient has seen and that
    are the same for all candidates of a sample. The candidate with the smallest share of right answers is kept (among
    equals, the one with the larger mean margin). A sample is *broken*, and left out from then on, only where all its
    evaluations are wrong. A process that is not stochastic is evaluated once. This share is never reported, because it
    is a minimum over candidates; the defender's own evaluation of the returned image is.

    The arguments are those of ``Attack``; ``observe`` gets a gradient for all B samples, the last one of those left
    out.
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
        """Row numbers of the samples that are not broken."""
        return (self.correct > 0.0).nonzero()[:, 0]

    def offer(self, rows: Tensor, images: Tensor) -> None:
        """Tries out images of some rows and keeps those that are stronger than the rows' present ones."""
        still_open = self.correct[rows] > 0.0
        rows, images = rows[still_open], images[still_open]
        if not len(rows):
            return
        new = self.gradient.evaluate(images, self.label[rows], self.sample[rows], self.evaluations)
        correct, margin = self.correct[rows], self.margin[rows]
        stronger = (new.correct < correct) | ((new.correct == correct) & (new.margin > margin))
        rows = rows[stronger]
        self.image = self.image.index_copy(0, rows, images[stronger])
        self.correct = self.correct.index_copy(0, rows, new.correct[stronger])
        self.margin = self.margin.index_copy(0, rows, new.margin[stronger])

    def surely_broken(self, images: Tensor, rows: Tensor) -> Tensor:
        """Whether images (N, C, H, W) of some rows are misclassified twice in a row, (N,).

        That is in all ``evaluations``, and then in as many with other draws: a sample for which the attack ends early
        must not owe that to luck. The first quarter comes alone: most images that are not broken show it there.
        """
        broken, once = torch.ones_like(rows, dtype=torch.bool), self.evaluations
        ends = [math.ceil(once / 4), once, 2 * once] if self.gradient.stochastic else [once]
        for first, end in itertools.pairwise(dict.fromkeys([0, *ends])):
            at = broken.nonzero()[:, 0]
            if len(at):
                of = rows[at]
                found = self.gradient.evaluate(images[at], self.label[of], self.sample[of], end - first, first)
                broken = broken.index_copy(0, at, found.correct == 0.0)
        return broken

    def ask(self, rows: Tensor, images: Tensor, loss: Loss) -> Gradient:
        """The gradient of a loss (of these rows' images) at the images of some rows: one iteration."""
        return self._asked(rows, self.gradient(images, self.label[rows], self.sample[rows], self.iteration, loss))

    def graft(self, rows: Tensor, images: Tensor, select: Select, loss: Loss) -> Gradient:
        """The same with gradient grafting."""
        of_rows = self.label[rows], self.sample[rows]
        return self._asked(rows, self.gradient.graft(images, *of_rows, self.iteration, select, loss))

    def _asked(self, rows: Tensor, gradient: Gradient) -> Gradient:
        if self.observe is not None:
            self._last = gradient if len(rows) == len(self.x) else self._merged(rows, gradient)
        self.skip(1)
        return gradient

    def likeliest_wrong(self) -> Tensor:
        """The wrong classes of each sample, likeliest first by mean logits on its clean image, (B, K - 1)."""
        if self._ranked is None:
            scores = self.gradient.scores(self.x, self.sample, self.evaluations)
            others = scores.scatter(1, self.label[:, None], float("-inf"))
            self._ranked = others.argsort(dim=1, descending=True)[:, :-1]
        return self._ranked

    def skip(self, iterations: int) -> None:
        """Counts iterations that ask for no gradient, so that later draws are keyed alike in every batch."""
        for _ in range(iterations):
            if self.observe is not None:
                assert self._last is not None
                self.observe(self.iteration, self._last)
            self.iteration += 1

    def start(self, rows: Tensor, norm: Norm, eps: float) -> Tensor:
        """Random starting points on the ball's surface, clamped to [0, 1]; keyed by the number of starts so far."""
        x = self.x[rows]
        draws = Draws(self.gradient.seed, "attack", self.sample[rows], torch.full_like(rows, self.starts))
        self.starts += 1
        return (x + eps * norm.noise(draws, x)).clamp(0.0, 1.0)

    def _merged(self, rows: Tensor, gradient: Gradient) -> Gradient:
        last = self._last
        assert last is not None, "the first iteration attacks all samples"
        parts = ((last.value, gradient.value), (last.loss, gradient.loss), (last.correct, gradient.correct))
        return Gradient(*(old.index_copy(0, rows, new) for old, new in parts))
