"""DiffPure (Nie et al. 2022): the reverse VP-SDE by Euler-Maruyama."""

import itertools
import math

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.continuous import beta, score, times, timestep


class DiffPureSDE(Purifier):
    """Diffuse to t, then solve the reverse-time SDE from t to 0.

    x(t*) = sqrt(abar) x + sqrt(1 - abar) eps (eq. 3), then dx = -beta(t) / 2 [x + 2 s(x, t)] dt + sqrt(beta(t)) dw
    (eqs. 4 and 6) by Euler-Maruyama with equal steps. The DDPM form of DiffPure is ``uniform`` with eta 1 on all
    timesteps to x(0).

    Args:
        denoiser: the noise predictor; asked at the timestep with the noise level nearest to the solver's time.
        t: t*, fraction of T in (0, 1): 0.1 on CIFAR-10 (Linf), 0.075 (L2), 0.15 on ImageNet.
        steps: Euler steps of the whole range, so t * steps network calls.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, denoiser: Denoiser, t: float = 0.1, steps: int = 1000) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.times = times(t, steps)

    @property
    def network_calls(self) -> int:
        return len(self.times) - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self._diffuse(to_signed(x), draws)
        for number, (t, s) in enumerate(itertools.pairwise(self.times)):
            drift = 0.5 * x_t + score(self.schedule, self.denoiser, x_t, t)
            noise = draws.normal_like(x_t, "step", number)
            x_t = x_t + beta(t) * (t - s) * drift + math.sqrt(beta(t) * (t - s)) * noise
        return to_unit(x_t)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"uniform noise": to_unit(self._diffuse(to_signed(x), draws)), **super().views(x, draws)}

    def _diffuse(self, x0: Tensor, draws: Draws) -> Tensor:
        first = timestep(self.schedule, self.times[0])
        return self.schedule.diffuse(x0, first, draws.normal_like(x0, "diffuse", first))
