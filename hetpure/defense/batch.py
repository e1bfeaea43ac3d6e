"""What an attack leaves of a test batch for the defense, and what the defense makes of it."""

from dataclasses import dataclass, field

from torch import Tensor

from hetpure.runs.records import Side

ATTACKED = "attacked"
"""Key of a batch under which an attack leaves its ``AttackedImages``."""


@dataclass(frozen=True)
class AttackTrace:
    """What an attack saw of one image, at every gradient that it took.

    Attributes:
        loss: the attacker's mean loss.
        gradient_size: largest absolute value of the gradient.
        correct: share of the EOT draws that were still classified right.
    """

    loss: list[float] = field(default_factory=list)
    gradient_size: list[float] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class AttackedImages:
    """An attack's outcome on a batch.

    Attributes:
        images: (B, C, H, W) in [0, 1], adversarial; the clean image where the attack failed.
        traces: of each image.
        failures: why an attack failed, by the sample's index.
        chunk_size: rows in a network call of the attack.
    """

    images: Tensor
    traces: list[AttackTrace]
    failures: dict[int, str]
    chunk_size: int


@dataclass(frozen=True)
class BatchScores:
    """A defense's class scores of a batch.

    Attributes:
        scores: (B, evaluations, K) of the clean images and, after an attack, of the adversarial ones, by protocol.
        failures: why a sample has no result, by its index; the attack's failures are among them.
        chunk_size: rows in a network call of the defense.
    """

    scores: dict[Side, dict[str, Tensor]]
    failures: dict[int, str]
    chunk_size: int
