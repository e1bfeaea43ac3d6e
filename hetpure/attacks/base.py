"""What every attack is."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from hetpure.arguments import KeepsArguments
from hetpure.attacks.gradients import Gradient, GradientSource

Observer = Callable[[int, Gradient], None]


class Attack(KeepsArguments, ABC):
    """Images and their labels to adversarial images, by asking a gradient source.

    Attributes:
        steps: how often ``observe`` is called, the same for every batch.
        classes: how many classes there must be at least.
    """

    steps: int
    classes: int = 2

    @abstractmethod
    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        """Adversarial images (B, C, H, W) in [0, 1], within the attack's ball around x.

        Args:
            gradient: the defense as the attacker sees it.
            x: clean images (B, C, H, W) in [0, 1].
            label: (B,) true classes.
            sample: (B,) dataset indices, which key the attacker's draws.
            observe: called after every iteration with its number and its gradient, of all B images.
        """

    @abstractmethod
    def __str__(self) -> str:
        """The attack in a few words, for titles."""
