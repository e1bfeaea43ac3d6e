"""Sampling as all purifiers share it: grids of timesteps, steps with keyed noise, the loop, rounds of it."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.trajectory import Trail
from hetpure.schedule import Schedule

Step = Callable[[Tensor, Tensor, int, int], Tensor]
"""``step(x, eps, t, s)``: from x(t), given the noise predicted in it, to x(s), s < t."""


def check_level(schedule: Schedule, t: float, name: str = "t") -> None:
    """Raises ConfigError unless a noise level is a fraction of T in (0, 1) that does not round to T."""
    accepted = f"above 0 and below 1, a fraction of the schedule's {schedule.T} timesteps"
    require(0.0 < t < 1.0 and round(t * schedule.T) < schedule.T, name, t, accepted)


def check_eta(eta: float) -> None:
    """Raises ConfigError unless eta is DDIM (0), DDPM (1) or between them."""
    require(0.0 <= eta <= 1.0, "eta", eta, "0 (DDIM) to 1 (DDPM)")


def timestep_grid(
    schedule: Schedule,
    t: float,
    *,
    grid_size: int | None = None,
    network_calls: int | None = None,
    shift: Literal[0, 1] = 1,
    name: str = "t",
) -> list[int]:
    """Timesteps from noise level t down, at equal strides: n - shift, .., stride - shift, -shift.

    n = t * T noising steps lead to level t. Published defenses number the image after them in two ways, and each
    purifier has the grid of its published code:

    * ``shift`` 1: the n-th step is timestep n - 1, so x(t) is at timestep t * T - 1, and the grid ends at ``CLEAN``.
      Used by gns, lorid, freqpure, gdmp, mimic and contrastive.
    * ``shift`` 0: x(t) is at timestep t * T, one step noisier, and the grid ends at timestep 0, whose image still has a
      little noise. Used by uniform and heterogeneous, as in the heterogeneous paper's code.

    The stride is T / ``grid_size``, with n rounded down to a multiple of it, or n / ``network_calls``: points of a grid
    of the whole range 0..T-1, or steps of this grid. ConfigError, with ``name`` for t, if the stride is not a whole
    number, or n is below one stride.
    """
    n = round(t * schedule.T)
    require(n >= 1, name, t, f"{1 / schedule.T:g} or more: at least one of the schedule's {schedule.T} timesteps")
    if network_calls is not None:
        accepted = f"a divisor of {name} * T = {n}"
        require(network_calls >= 1 and n % network_calls == 0, "network_calls", network_calls, accepted, name)
        stride = n // network_calls
    else:
        assert grid_size is not None
        accepted = f"a divisor of T = {schedule.T}"
        require(grid_size >= 1 and schedule.T % grid_size == 0, "grid_size", grid_size, accepted)
        stride = schedule.T // grid_size
        accepted = f"{math.ceil(schedule.T / n)} or more, so that a grid point lies in (0, {name} * T = {n}]"
        require(n >= stride, "grid_size", grid_size, accepted, name)
    return [k * stride - shift for k in range(n // stride, -1, -1)]


@dataclass(frozen=True)
class Sampler:
    """Steps along a denoiser's schedule with the keyed noise of N rows; eta is 0 for DDIM steps, 1 for DDPM."""

    denoiser: Denoiser
    draws: Draws
    eta: float = 0.0

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def in_round(self, number: int) -> "Sampler":
        """The same steps with the noise of another round (from 0), for loops that visit a timestep again."""
        return replace(self, draws=self.draws.in_round(number, self.schedule.T))

    def diffuse(self, x0: Tensor, t: int) -> Tensor:
        """Eqs. (1) and (6): from x(0) (N, C, H, W), scaled to [-1, 1], to x(t)."""
        return self.schedule.diffuse(x0, t, self.draws.normal_like(x0, "diffuse", t))

    def diffuse_further(self, x: Tensor, s: int, t: int) -> Tensor:
        """Eq. (10) applied t - s times: from x(s) to x(t), t >= s."""
        return self.schedule.diffuse_further(x, s, t, self.draws.normal_like(x, "resample", s))

    def step(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """From x(t), with predicted noise eps, to x(s): ``Schedule.ddim_step``.

        The added noise, if any, is keyed by s: a grid has each s once, while resampling may reach the same t twice.
        """
        noise = self.draws.normal_like(x, "step", s) if self.schedule.sigma(t, s, self.eta) > 0.0 else None
        return self.schedule.ddim_step(x, eps, t, s, self.eta, noise)

    def denoise(self, x: Tensor, t: int, s: int) -> Tensor:
        """Eqs. (7), (9) and (11): from x(t) to x(s) by one network call."""
        return self.step(x, self.denoiser(x, t), t, s)

    def sample(self, x: Tensor, grid: Sequence[int], step: Step, trail: Trail | None = None) -> Tensor:
        """From x at the first timestep of a descending grid to x at the last, one network call a step.

        Each x(s) is reported to the trail, if any.
        """
        for t, s in itertools.pairwise(grid):
            x = step(x, self.denoiser(x, t), t, s)
            if trail is not None:
                trail.reached(self.schedule.alpha_bar(s), x)
        return x


class SamplingPurifier(Purifier):
    """Rounds of diffusing to a noise level and sampling back, each from the result of the round before.

    Subclasses have these arguments in common:

    Args:
        denoiser: the noise predictor.
        t: noise level, fraction of T in (0, 1).
        grid_size: grid points of the whole range 0..T-1 (``timestep_grid``).
        eta: 0 for DDIM steps, 1 for DDPM.

    Attributes:
        NOISE_VIEW: heading of the first round's noisy image in ``views``.
        grids: each round's timesteps, descending.
    """

    has_trail: ClassVar[bool] = True
    NOISE_VIEW: ClassVar[str] = "first noise"

    def __init__(self, denoiser: Denoiser, grids: Sequence[list[int]], eta: float) -> None:
        super().__init__()
        check_eta(eta)
        self.denoiser, self.schedule, self.grids, self.eta = denoiser, denoiser.schedule, list(grids), eta
        self.network_calls = sum(len(grid) - 1 for grid in grids)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return to_unit(self.after_rounds(to_signed(x), draws)[-1])

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        noisy = self.start(to_signed(x), self.grids[0], Sampler(self.denoiser, draws, self.eta))
        return {self.NOISE_VIEW: to_unit(noisy), **super().views(x, draws)}

    def after_rounds(self, image: Tensor, draws: Draws) -> list[Tensor]:
        """The image (N, C, H, W), scaled to [-1, 1], after each round; not clamped."""
        x0, results = image, []
        for number, grid in enumerate(self.grids):
            sampler = Sampler(self.denoiser, draws, self.eta).in_round(number)
            x = self.start(x0, grid, sampler)
            trail = Trail(x0, x, self.schedule.alpha_bar(grid[0]))
            x0 = sampler.sample(x, grid, self.make_step(image, x0, sampler), trail)
            results.append(x0)
        return results

    def start(self, x0: Tensor, grid: Sequence[int], sampler: Sampler) -> Tensor:
        """The noisy image from which a round samples, given the result x0 of the round before."""
        return sampler.diffuse(x0, grid[0])

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        """The step of a round; guided purifiers override it to correct the predicted noise, x(0|t) or the result.

        The image that is purified and the round's start x0 are (N, C, H, W), scaled to [-1, 1]. The sampler takes
        unguided steps, with the round's keys.
        """
        return sampler.step


class RoundsPurifier(SamplingPurifier):
    """Rounds that each have a noise level t and a number of network calls, a divisor of t * T."""

    def __init__(self, denoiser: Denoiser, t: Sequence[float], network_calls: Sequence[int], eta: float) -> None:
        require(len(t) > 0, "t", list(t), "a noise level for each round")
        accepted = f"as many numbers as t has: {len(t)}"
        require(len(network_calls) == len(t), "network_calls", list(network_calls), accepted, "t")
        grids = []
        for level, calls in zip(t, network_calls, strict=True):
            check_level(denoiser.schedule, level)
            grids.append(timestep_grid(denoiser.schedule, level, network_calls=calls))
        super().__init__(denoiser, grids, eta)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        views = super().views(x, draws)
        purified = views.pop("purified")
        for number, image in enumerate(self.after_rounds(to_signed(x), draws)[:-1], start=1):
            views[f"after round {number}"] = to_unit(image)
        return {**views, "purified": purified}
