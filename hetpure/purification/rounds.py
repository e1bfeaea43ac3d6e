"""Purification in rounds: noise and denoise, again and again, each round from the last one's result."""

import itertools
from abc import ABC
from collections.abc import Sequence

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.steps import check_eta, check_level
from hetpure.schedule import CLEAN, Schedule


def round_grids(schedule: Schedule, t: Sequence[float], steps: Sequence[int]) -> list[list[int]]:
    """Each round's timesteps, from its noise level down to ``CLEAN``, in ``steps`` equal strides.

    A level of t stands after n = t * T timesteps, so at timestep n - 1; the grid is Lee & Kim's: n - 1, n - 1 - stride,
    .., stride - 1, ``CLEAN``.

    Raises:
        ValueError: names the argument that cannot be.
    """
    if not t:
        raise ValueError("t = [] must hold a noise level for each round")
    if len(steps) != len(t):
        raise ValueError(f"steps = {list(steps)} must hold as many numbers as t: {len(t)}")
    grids = []
    for level, count in zip(t, steps, strict=True):
        check_level("t", level)
        n = round(level * schedule.T)
        if count < 1 or n % count:
            raise ValueError(f"steps = {list(steps)}: {count} must divide t * T = {n}")
        grids.append([*range(n - 1, -1, -(n // count)), CLEAN])
    return grids


class RoundsPurifier(Purifier, ABC):
    """Rounds of noising to t and denoising to x(0).

    Args:
        denoiser: the noise predictor.
        t: each round's noise level, fraction of T.
        steps: each round's network calls.
        eta: 0 for DDIM steps, 1 for DDPM.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, denoiser: Denoiser, t: Sequence[float], steps: Sequence[int], eta: float) -> None:
        super().__init__()
        check_eta(eta)
        self.denoiser, self.schedule, self.eta = denoiser, denoiser.schedule, eta
        self.grids = round_grids(self.schedule, t, steps)

    @property
    def network_calls(self) -> int:
        return sum(len(grid) - 1 for grid in self.grids)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return to_unit(self.trajectory(to_signed(x), draws)[-1])

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the image after each round."""
        *between, _ = self.trajectory(to_signed(x), draws)
        after = {f"after round {number}": to_unit(image) for number, image in enumerate(between, start=1)}
        first = self.grids[0][0]
        noisy = self.schedule.diffuse(to_signed(x), first, draws.normal_like(x, "diffuse", first))
        return {"first noise": to_unit(noisy), **after, **super().views(x, draws)}

    def trajectory(self, image: Tensor, draws: Draws) -> list[Tensor]:
        """The image (N, C, H, W), scaled to [-1, 1], after each round; not clamped."""
        results, T = [], self.schedule.T
        x0 = image
        for number, timesteps in enumerate(self.grids):
            first = timesteps[0]
            x = self.schedule.diffuse(x0, first, draws.normal_like(x0, "diffuse", first + number * T))
            for t, s in itertools.pairwise(timesteps):
                eps = self.denoiser(x, t)
                random = self.schedule.sigma(t, s, self.eta) > 0.0
                noise = draws.normal_like(x, "step", s + number * T) if random else None
                x = self.schedule.ddim_step(x, eps, t, s, self.eta, noise)
            x0 = x
            results.append(x0)
        return results
