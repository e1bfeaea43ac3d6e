"""DiffPure (Nie et al. 2022): the reverse VP-SDE by Euler-Maruyama, and the probability-flow ODE of its ablation.

Both run in the continuous time of Song et al. 2021, with the score of a discrete denoiser.
"""

import itertools
import math
from typing import ClassVar, Literal

from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.sampling import Sampler, check_level
from hetpure.purification.trajectory import Trail

Solver = Literal["euler", "heun"]

BETA_MIN, BETA_MAX = 0.1, 20.0
"""beta(t) = BETA_MIN + t (BETA_MAX - BETA_MIN) for t in [0, 1]: T times the discrete schedule's ends."""

END = 1e-5
"""Time at which DiffPure's solvers stop: the score has a pole at 0."""


def beta(time: float) -> float:
    """The rate in dx = -beta x / 2 dt + sqrt(beta) dw."""
    return BETA_MIN + time * (BETA_MAX - BETA_MIN)


def alpha_bar(time: float) -> float:
    """abar(t) = exp(-integral of beta from 0 to t)."""
    return math.exp(-BETA_MIN * time - 0.5 * (BETA_MAX - BETA_MIN) * time**2)


class _ContinuousPurifier(Purifier):
    """Diffuses to t, then solves an equation from t to 0 with equal steps, the last of which stops at ``END``."""

    has_trail: ClassVar[bool] = True

    def __init__(self, denoiser: Denoiser, t: float = 0.1, grid_size: int = 1000) -> None:
        super().__init__()
        check_level(denoiser.schedule, t)
        steps = round(t * grid_size)
        require(steps >= 1, "grid_size", grid_size, f"{math.ceil(1.0 / t)} or more, so that [0, t] holds a step", "t")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.times = [t * (steps - n) / steps for n in range(steps)] + [END]
        self.network_calls = steps

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"uniform noise": to_unit(self.start(to_signed(x), draws)), **super().views(x, draws)}

    def start(self, x0: Tensor, draws: Draws) -> Tensor:
        """x(t) = sqrt(abar) x(0) + sqrt(1 - abar) eps (eq. 3)."""
        return Sampler(self.denoiser, draws).diffuse(x0, self.timestep(self.times[0]))

    def trail(self, x0: Tensor, x_t: Tensor) -> Trail:
        """The way down from ``start``'s image."""
        return Trail(x0, x_t, self.schedule.alpha_bar(self.timestep(self.times[0])))

    def timestep(self, time: float) -> int:
        """The discrete timestep nearest to a time: timestep i comes after i + 1 of T noising steps."""
        return max(round(time * self.schedule.T) - 1, 0)

    def score(self, x: Tensor, time: float) -> Tensor:
        """s(x, t) = -eps(x, t) / sqrt(1 - abar(t)); one network call."""
        return self.denoiser(x, self.timestep(time)) * (-1.0 / math.sqrt(1.0 - alpha_bar(time)))


class DiffPureSDE(_ContinuousPurifier):
    """Diffuses to t, then solves the reverse-time SDE from t to 0.

    dx = -beta(t) / 2 [x + 2 s(x, t)] dt + sqrt(beta(t)) dw (eqs. 4 and 6) by Euler-Maruyama with equal steps. The DDPM
    form of DiffPure is ``uniform`` with eta 1 on all timesteps to x(0). The paper's t is 0.1 on CIFAR-10 (Linf), 0.075
    (L2) and 0.15 on ImageNet.

    Args:
        denoiser: the noise predictor; called at the timestep whose noise level is nearest to the solver's time.
        t: noise level, fraction of T in (0, 1).
        grid_size: Euler steps of the whole range [0, 1], so t * grid_size network calls.
    """

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self.start(to_signed(x), draws)
        trail = self.trail(to_signed(x), x_t)
        for number, (t, s) in enumerate(itertools.pairwise(self.times)):
            drift = 0.5 * x_t + self.score(x_t, t)
            noise = draws.normal_like(x_t, "step", number)
            x_t = x_t + beta(t) * (t - s) * drift + math.sqrt(beta(t) * (t - s)) * noise
            trail.reached(alpha_bar(s), x_t)
        return to_unit(x_t)


class DiffPureODE(_ContinuousPurifier):
    """Diffuses to t, then follows dx = -beta(t) / 2 [x + s(x, t)] dt from t to 0: only the first noise is random.

    Args:
        denoiser: see ``DiffPureSDE``.
        t: see ``DiffPureSDE``.
        grid_size: see ``DiffPureSDE``.
        solver: ``euler`` (the released code), or ``heun``: two network calls a step, but one in the last, at whose end
            no noise is left to predict (as in Karras et al. 2022).
    """

    def __init__(self, denoiser: Denoiser, t: float = 0.1, grid_size: int = 1000, solver: Solver = "euler") -> None:
        super().__init__(denoiser, t, grid_size)
        self.solver = solver
        if solver == "heun":
            self.network_calls = 2 * self.network_calls - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self.start(to_signed(x), draws)
        trail = self.trail(to_signed(x), x_t)
        for t, s in itertools.pairwise(self.times):
            slope = self.slope(x_t, t)
            x_s = x_t + (t - s) * slope
            if self.solver == "heun" and s != self.times[-1]:
                x_s = x_t + 0.5 * (t - s) * (slope + self.slope(x_s, s))
            x_t = x_s
            trail.reached(alpha_bar(s), x_t)
        return to_unit(x_t)

    def slope(self, x: Tensor, t: float) -> Tensor:
        """-dx/dt, since time runs down."""
        return 0.5 * beta(t) * (x + self.score(x, t))
