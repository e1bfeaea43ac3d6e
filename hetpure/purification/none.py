"""No purification: the undefended classifier."""

from torch import Tensor

from hetpure.noise import Draws
from hetpure.purification.base import Purifier


class NoPurifier(Purifier):
    """The identity."""

    stochastic: bool = False

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return x
