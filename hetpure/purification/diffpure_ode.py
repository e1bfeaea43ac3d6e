"""DiffPure's ablation (Nie et al. 2022): the probability-flow ODE on a fixed grid."""

import itertools
from typing import Literal

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.continuous import beta, score, times, timestep

Solver = Literal["euler", "heun"]


class DiffPureODE(Purifier):
    """Diffuse to t, then follow dx = -beta(t) / 2 [x + s(x, t)] dt from t to 0: random by the first noise alone.

    Args:
        denoiser: the noise predictor; see ``DiffPureSDE``.
        t: fraction of T in (0, 1).
        steps: solver steps of the whole range; t * steps of them are taken.
        solver: ``euler`` (the released code), or ``heun``: two network calls a step, one in the last, whose end has
            no noise left to predict (as in Karras et al. 2022).

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, denoiser: Denoiser, t: float = 0.1, steps: int = 1000, solver: Solver = "euler") -> None:
        super().__init__()
        if solver not in ("euler", "heun"):
            raise ValueError(f"solver = {solver!r} must be euler or heun")
        self.denoiser, self.schedule, self.solver = denoiser, denoiser.schedule, solver
        self.times = times(t, steps)

    @property
    def network_calls(self) -> int:
        count = len(self.times) - 1
        return count if self.solver == "euler" else 2 * count - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self._diffuse(to_signed(x), draws)
        for t, s in itertools.pairwise(self.times):
            slope = self._slope(x_t, t)
            ahead = x_t + (t - s) * slope
            if self.solver == "heun" and s != self.times[-1]:
                ahead = x_t + 0.5 * (t - s) * (slope + self._slope(ahead, s))
            x_t = ahead
        return to_unit(x_t)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"uniform noise": to_unit(self._diffuse(to_signed(x), draws)), **super().views(x, draws)}

    def _slope(self, x: Tensor, t: float) -> Tensor:
        """-dx/dt: time runs down."""
        return 0.5 * beta(t) * (x + score(self.schedule, self.denoiser, x, t))

    def _diffuse(self, x0: Tensor, draws: Draws) -> Tensor:
        first = timestep(self.schedule, self.times[0])
        return self.schedule.diffuse(x0, first, draws.normal_like(x0, "diffuse", first))
