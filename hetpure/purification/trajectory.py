"""What a purification goes through, for attackers who look inside: each state beside the diffused image."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

Watcher = Callable[[Tensor, Tensor], None]
"""Called after a denoising step with the state x'(t) and the diffused image x(t), (N, C, H, W), scaled to [-1, 1]."""

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Hands the states of all purifications inside to ``watcher``, in the order of events."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class Trail:
    """The states of one way down, from a noisy image.

    x(t) = sqrt(abar_t) x(0) + sqrt(1 - abar_t) eps (eq. 1), with the noise eps that led from x(0) to the start.

    Args:
        x0: the image that was diffused, (N, C, H, W), scaled to [-1, 1].
        start: the noisy image, like x0.
        abar: the start's noise level.
    """

    def __init__(self, x0: Tensor, start: Tensor, abar: float) -> None:
        self.x0, self.start, self.abar = x0, start, abar

    def reached(self, abar: float, state: Tensor) -> None:
        """Reports a state at a noise level; costs nothing where nobody watches."""
        if not _watchers:
            return
        of_start = math.sqrt((1.0 - abar) / (1.0 - self.abar))
        diffused = (math.sqrt(abar) - of_start * math.sqrt(self.abar)) * self.x0 + of_start * self.start
        for watcher in _watchers:
            watcher(state, diffused)
