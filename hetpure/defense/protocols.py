"""What counts as right: one prediction, N predictions in a row, or a vote of many purifications.

All protocols look at the same purifications of a sample, numbered 0, 1, ..: evaluation n of a prediction with S
purifications takes S * n .. S * n + S - 1, a vote of V takes the first V. So they can be compared, the one-shot
prediction is the first of the resubmitted ones, and no purification is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from hetpure.errors import require
from hetpure.runs.names import protocol_names

EnsembleMode = Literal["mean_logits", "mean_probs", "vote"]


def ensemble_scores(logits: Tensor, mode: EnsembleMode) -> Tensor:
    """Class scores from S purifications.

    Args:
        logits: (B, S, K).
        mode: ``mean_logits`` (Algorithm 3), ``mean_probs``, or ``vote`` (released code: the share of purifications that
            predict each class).

    Returns:
        (B, K); the prediction is the largest, the first where votes tie.
    """
    if mode == "mean_logits":
        return logits.mean(dim=1)
    if mode == "mean_probs":
        return logits.softmax(dim=2).mean(dim=1)
    return functional.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits.dtype).mean(dim=1)


@dataclass(frozen=True)
class Protocol:
    """A sample is right if all its evaluations are."""

    name: str  # as tables and records have it
    evaluations: int  # independent predictions of a sample
    size: int  # purifications in each of them
    mode: EnsembleMode  # how those are joined

    @property
    def draws(self) -> int:
        """Purifications of a sample that this protocol looks at."""
        return self.evaluations * self.size

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores (B, evaluations, K) from the logits (B, D, K) of D >= ``draws`` purifications."""
        each = logits[:, : self.draws].unflatten(1, (self.evaluations, self.size)).flatten(0, 1)
        return ensemble_scores(each, self.mode).unflatten(0, (len(logits), self.evaluations))


def build_protocols(size: int, mode: EnsembleMode, resubmissions: int = 1, votes: int = 0) -> tuple[Protocol, ...]:
    """The protocols of a run, one-shot first.

    They are Algorithm 3's prediction from S = ``size`` purifications; best-of-N, left out where N = ``resubmissions``
    is 1; and the majority vote of V = ``votes`` single purifications, left out where V is 0.
    """
    require(resubmissions >= 1, "resubmissions", resubmissions, "1 or more")
    require(votes >= 0, "votes", votes, "0 or more")
    settings: list[tuple[int, int, EnsembleMode]] = [(1, size, mode)]
    if resubmissions > 1:
        settings.append((resubmissions, size, mode))
    if votes:
        settings.append((1, votes, "vote"))
    names = protocol_names(resubmissions, votes)
    return tuple(Protocol(name, *setting) for name, setting in zip(names, settings, strict=True))


def draws_needed(protocols: Sequence[Protocol]) -> int:
    """Purifications of a sample that cover all protocols."""
    return max(protocol.draws for protocol in protocols)
