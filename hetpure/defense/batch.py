"""What an attack leaves of a test batch for the defense, and what the defense makes of it."""

from dataclasses import dataclass

from torch import Tensor

from hetpure.runs.records import Side

ATTACKED = "attacked"
"""Key of a batch under which an attack leaves its ``AttackedImages``."""


@dataclass(frozen=True)
class AttackedImages:
    """An attack's outcome on a batch; lists have an entry for each image.

    Attributes:
        images: (B, C, H, W) in [0, 1], adversarial; the clean image where the attack failed.
        loss: the attacker's mean loss at every gradient that it took.
        gradient_size: largest absolute value of each of those gradients.
        correct: share of the EOT draws at each of those gradients that were still classified right.
        failures: why an attack failed, by the sample's index.
        chunk_size: rows in a network call of the attack.
    """

    images: Tensor
    loss: list[list[float]]
    gradient_size: list[list[float]]
    correct: list[list[float]]
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
