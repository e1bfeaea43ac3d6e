"""What an attack leaves of a test batch for the defense, and what the defense makes of it."""

from dataclasses import dataclass, field

from torch import Tensor

from hetpure.runs.certificates import Certificate
from hetpure.runs.records import Side

ATTACKED = "attacked"
"""Key of a batch under which an attack leaves its ``AttackedImages``."""


CERTIFIED = "certified"
"""Key of a batch under which a ``Certifier`` leaves its ``CertifiedImages``."""


@dataclass
class AttackTrace:
    """What an attack saw of one image, at every gradient that it took, and how it ended."""

    loss: list[float] = field(default_factory=list)  # the attacker's mean loss
    gradient_size: list[float] = field(default_factory=list)  # largest absolute value of the gradient
    correct: list[float] = field(default_factory=list)  # share of the EOT draws that were still classified right
    trials: int = 0  # purifications without gradients, to try images out
    left_after: int | None = None  # iterations, where it left the attack early


@dataclass(frozen=True)
class AttackedImages:
    """An attack's outcome on a batch."""

    images: Tensor  # (B, C, H, W) in [0, 1], adversarial; the clean image where the attack failed
    traces: list[AttackTrace]  # of each image
    failures: dict[int, str]  # why an attack failed, by the sample's index
    chunk_size: int  # rows in a network call of the attack
    checkpoints: dict[int, Tensor] = field(default_factory=dict)  # like images, after so many iterations


@dataclass(frozen=True)
class BatchScores:
    """A defense's class scores of a batch: of the clean images and, after an attack, of the adversarial ones."""

    scores: dict[Side, dict[str, Tensor]]  # (B, evaluations, K), by protocol
    failures: dict[int, str]  # why a sample has no result, by its index, also where the attack failed
    chunk_size: int  # rows in a network call of the defense
    checkpoints: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # like scores, after so many iterations


@dataclass(frozen=True)
class CertifiedImages:
    """The certificates of a batch."""

    certificates: dict[int, Certificate]  # by the sample's index
    failures: dict[int, str]  # why a sample has none, likewise
    chunk_size: int  # rows in a network call
