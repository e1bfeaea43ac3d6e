"""What counts as right: one prediction, N predictions in a row, or a vote of many purifications.

All protocols look at the same purifications of a sample, numbered 0, 1, ..: evaluation n of a prediction with S
purifications takes S * n .. S * n + S - 1, a vote of V takes the first V. So they can be compared, the one-shot
prediction is the first of the resubmitted ones, and no purification is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hetpure.defense.classifier import EnsembleMode, ensemble_scores
from hetpure.runs.names import protocol_names


@dataclass(frozen=True)
class Protocol:
    """A sample is right if all its evaluations are.

    Attributes:
        name: as tables and records have it.
        evaluations: independent predictions of a sample; each must be right.
        size: purifications in each of them.
        mode: how those are joined; see ``ensemble_scores``.
    """

    name: str
    evaluations: int
    size: int
    mode: EnsembleMode

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

    Args:
        size: S of a prediction (Algorithm 3).
        mode: how a prediction joins its S purifications.
        resubmissions: N of best-of-N; 1 leaves it out.
        votes: V of the majority vote of single purifications; 0 leaves it out.
    """
    one_shot, *others = protocol_names(resubmissions, votes)
    protocols = [Protocol(one_shot, 1, size, mode)]
    if resubmissions > 1:
        protocols.append(Protocol(others.pop(0), resubmissions, size, mode))
    if votes:
        protocols.append(Protocol(others.pop(0), 1, votes, "vote"))
    return tuple(protocols)


def draws_needed(protocols: Sequence[Protocol]) -> int:
    """Purifications of a sample that cover all protocols."""
    return max(protocol.draws for protocol in protocols)
