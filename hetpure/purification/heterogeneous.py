"""Heterogeneous noise (section 3) and its two-stage denoising: Algorithm 1 as printed, and the released code's loop.

Where the classifier looks (mask M = 1), pixels get strong noise, t_large; elsewhere weak noise, t_small. Between the
two levels, stage 1 treats the inside of the mask as a hole to be inpainted: it is generated ("unknown"), while the
outside is the input noised to the current level ("known"). Below t_small, stage 2 is plain sampling.

Eq. (8) and Algorithm 1 print M * known + (1 - M) * unknown, which would regenerate what is to be preserved. Eq. (5),
the text of section 3.2 and the released code have it the other way, and so does ``compose``.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hetpure.errors import require
from hetpure.models.activations import Block
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.mask import AttentionMask, Normalization, Relaxation, Selection
from hetpure.purification.sampling import Sampler, check_eta, check_level
from hetpure.purification.trajectory import Trail
from hetpure.purification.uniform import End, released_grid
from hetpure.schedule import Schedule

Resampling = Literal["none", "single", "fused", "repaint"]
Order = Literal["released", "paper"]
Resample = Callable[[Sampler, Tensor, int], tuple[Tensor, int]]
"""From x(t) to the resampled x, and the timestep at which that is."""
Callback = Callable[[int, Tensor], None]


def compose(mask: Tensor, unknown: Tensor, known: Tensor) -> Tensor:
    """X = M * unknown + (1 - M) * known: eq. (8) as the text means it (see the module's docstring)."""
    # lerp is exact at 0 and 1, and keeps nothing but the mask for the backward pass.
    return torch.lerp(known, unknown, mask)


def heterogeneous_noise(
    x0: Tensor, mask: Tensor, schedule: Schedule, t_large: int, t_small: int, draws: Draws
) -> Tensor:
    """x(t_large, t_small) = M * x(t_large) + (1 - M) * x(t_small): eq. (5), with one noise draw for both (eq. 1).

    x0 (N, C, H, W) is scaled to [-1, 1], the mask is (N, 1, H, W), t_large and t_small are timesteps.
    """
    noise = draws.normal_like(x0, "diffuse", t_large)
    return compose(mask, schedule.diffuse(x0, t_large, noise), schedule.diffuse(x0, t_small, noise))


def no_resampling(sampler: Sampler, x: Tensor, t: int) -> tuple[Tensor, int]:
    """x(t) as it is."""
    return x, t


def single_resampling(sampler: Sampler, x: Tensor, t: int, U: int) -> tuple[Tensor, int]:
    """Section 4: noise to t + U (eq. 10, U times), then one DDIM step back to t (eq. 11)."""
    x = sampler.diffuse_further(x, t, t + U)
    return sampler.in_round(1).denoise(x, t + U, t), t


def fused_resampling(sampler: Sampler, x: Tensor, t: int, U: int) -> tuple[Tensor, int]:
    """The released code: noise to t + U, from where the grid's next step starts; no additional network call."""
    return sampler.diffuse_further(x, t, t + U), t + U


def algorithm_1(
    sampler: Sampler,
    x0: Tensor,
    mask: Tensor,
    grid: Sequence[int],
    t_small: float,
    resample: Resample = no_resampling,
    repeats: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Algorithm 1: a step from t to s, then known and unknown composed at s, then resampling.

    Numbers in comments are lines of the printed algorithm, in which s is t - 1. It prints resampling in both stages;
    the text and the released code have it in stage 1. The result is like x0, not clamped.

    Args:
        sampler: denoiser, draws and eta; eta 1 is the printed DDPM step.
        x0: the image, (N, C, H, W), scaled to [-1, 1].
        mask: M, (N, 1, H, W).
        grid: timesteps from t_large down.
        t_small: timestep below which stage 2 begins; need not be on the grid.
        resample: resampling of x(s).
        repeats: RePaint's U: how often each step of stage 1 is taken, with x(s) noised back to t in between.
        callback: called with (timestep, x) after every step.
    """
    # All pixels start at t_large. Outside the mask that is "known" (eq. 6): the outside does not start at x(t_small),
    # as in eq. (5), but is noised to the current timestep at every step of stage 1.
    x, at = sampler.diffuse(x0, grid[0]), grid[0]
    trail = Trail(x0, x, sampler.schedule.alpha_bar(at))
    for t, s in itertools.pairwise(grid):  # 1
        if t >= t_small:  # 2: stage 1
            for u in range(repeats):
                sampler_u = sampler.in_round(u)
                if u > 0:
                    x = sampler_u.diffuse_further(x, s, t)
                known = sampler_u.diffuse(x0, s)  # 3, 4
                unknown = sampler_u.denoise(x, at, s)  # 5, 6
                x = compose(mask, unknown, known)  # 7
            x, at = resample(sampler, x, s)  # 11 to 15
        else:  # 8: stage 2
            x, at = sampler.denoise(x, at, s), s  # 9, 10
        trail.reached(sampler.schedule.alpha_bar(at), x)
        if callback is not None:
            callback(at, x)
    return x


def released_loop(
    sampler: Sampler,
    x0: Tensor,
    mask: Tensor,
    grid: Sequence[int],
    t_small: float,
    resample: Resample = no_resampling,
    repeats: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """The released code's loop: known and unknown composed at t, then resampling, then a step to s.

    See ``algorithm_1`` for arguments and result. Here a step belongs to stage 1 if it ends at or above t_small, and
    x(t) is resampled.
    """
    x = sampler.diffuse(x0, grid[0])
    trail = Trail(x0, x, sampler.schedule.alpha_bar(grid[0]))
    for t, s in itertools.pairwise(grid):
        if s >= t_small:
            for u in range(repeats):
                sampler_u = sampler.in_round(u)
                if u > 0:
                    x = sampler_u.diffuse_further(x, s, t)
                x = compose(mask, x, sampler_u.diffuse(x0, t))
                x, start = resample(sampler, x, t)
                x = sampler_u.denoise(x, start, s)
        else:
            x = sampler.denoise(x, t, s)
        trail.reached(sampler.schedule.alpha_bar(s), x)
        if callback is not None:
            callback(s, x)
    return x


class HeterogeneousPurifier(Purifier):
    """Algorithm 2's mask, then Algorithm 1's denoising.

    The paper's text and its released code differ in places. Every such place is an argument, and ``PRESETS`` set them
    all: ``released`` (the code behind the published numbers; the defaults) and ``paper`` (the text, read sensibly).

    Args:
        denoiser, grid_size, eta: see ``SamplingPurifier``; Algorithm 1 prints DDPM steps.
        t_large: the paper's t_l, fraction of T: noise inside the mask.
        t_small: the paper's t_s, fraction of T, below t_large: noise outside.
        end: ``t0`` stops at timestep 0's noise level (released loop), ``clean`` goes on to x(0) (Algorithm 1).
        order: ``paper`` for ``algorithm_1``, ``released`` for ``released_loop``.
        resampling: stage 1's cure for seams: ``single`` (``single_resampling``, one more network call a step),
            ``fused`` (``fused_resampling``), ``repaint`` (RePaint's U-fold loop that ``single`` replaces) or ``none``.
        U: resampling length, in timesteps (``repaint``: number of repetitions).
        blocks: see ``AttentionMask``.
        normalization: see ``AttentionMask``.
        p: see ``AttentionMask``.
        root: see ``AttentionMask``.
        selection: see ``AttentionMask``.
        tau: see ``AttentionMask``.
        top_fraction: see ``AttentionMask``.
    """

    has_trail: ClassVar[bool] = True
    PRESETS: ClassVar[dict[str, dict]] = {
        "released": {},  # the defaults
        "paper": {
            "t_small": 0.05,
            "grid_size": 1000,
            "eta": 1.0,
            "end": "clean",
            "order": "paper",
            "resampling": "single",
            "U": 10,
            "normalization": "minmax",  # the printed spatial softmax never reaches tau
            "root": True,
            "tau": 0.8,
        },
    }
    ENSEMBLE_MODES: ClassVar[dict[str, str]] = {"released": "vote", "paper": "mean_logits"}

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: Classifier,
        t_large: float = 0.2,
        t_small: float = 0.1,
        grid_size: int = 500,
        eta: float = 0.0,
        end: End = "t0",
        order: Order = "released",
        resampling: Resampling = "fused",
        U: int = 3,
        blocks: list[Block] | None = None,
        normalization: Normalization = "minmax",
        p: int = 2,
        root: bool = False,
        selection: Selection = "threshold",
        tau: float = 0.9,
        top_fraction: float = 0.15,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.eta = denoiser, denoiser.schedule, eta
        T = self.schedule.T
        check_level(self.schedule, t_large, "t_large")
        check_level(self.schedule, t_small, "t_small")
        require(t_small < t_large, "t_small", t_small, f"below t_large = {t_large}", "t_large")
        check_eta(eta)
        grid = self.timesteps = released_grid(self.schedule, t_large, grid_size, end, "t_large")
        self.t_small = t_small * T
        require(U >= 1 and grid[0] + U < T, "U", U, f"1 or more, with t_large * T + U below T = {T}", "t_large")
        # Algorithm 1 asks where a step starts, the released code where it ends.
        stage_1_steps = sum(t >= self.t_small for t in (grid[:-1] if order == "paper" else grid[1:]))
        levels = f"t_small = {t_small} and t_large = {t_large}"
        accepted = f"one that has a grid point between {levels}: without stage 1 the mask has no effect"
        require(stage_1_steps > 0, "grid_size", grid_size, accepted, "t_large", "t_small")
        more_calls = {"single": 1, "repaint": U - 1}.get(resampling, 0)  # in each step of stage 1
        self.network_calls = len(grid) - 1 + stage_1_steps * more_calls
        single, fused = functools.partial(single_resampling, U=U), functools.partial(fused_resampling, U=U)
        resamplings: dict[str, Resample] = {"single": single, "fused": fused}
        self.resample = resamplings.get(resampling, no_resampling)
        self.loop = algorithm_1 if order == "paper" else released_loop
        self.repeats = U if resampling == "repaint" else 1
        self.mask = AttentionMask(classifier, blocks, normalization, p, root, selection, tau, top_fraction)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """See ``Purifier``: the attention mask M (B, 1, H, W), the same for every draw."""
        return (self.mask(x),)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        (mask,) = prepared
        return to_unit(self.denoise(to_signed(x), mask, draws))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        with torch.no_grad():
            attention = self.mask.attention(x)
            mask = self.mask.select(attention)
            noisy = heterogeneous_noise(to_signed(x), mask, self.schedule, self.timesteps[0], int(self.t_small), draws)
            purified = self.purify(x, draws, mask)
        return {"attention map": attention, "mask": mask, "heterogeneous noise": to_unit(noisy), "purified": purified}

    def denoise(self, x0: Tensor, mask: Tensor, draws: Draws, callback: Callback | None = None) -> Tensor:
        """Noises and denoises images; see ``algorithm_1``."""
        sampler = Sampler(self.denoiser, draws, self.eta)
        return self.loop(sampler, x0, mask, self.timesteps, self.t_small, self.resample, self.repeats, callback)


class MaskAwarePurifier(Purifier):
    """A heterogeneous purifier whose mask has a gradient, for attacks that move the mask.

    The defense's mask is an indicator without a gradient: the exact gradient of the defense treats it as a constant,
    although the attack moves it. Here the mask is relaxed (``AttentionMask.relaxed`` with the temperature and forward),
    so the gradient also goes through the classifier's attention. It is an attack process, not a defense.
    """

    def __init__(self, purifier: HeterogeneousPurifier, temperature: float, forward: Relaxation) -> None:
        super().__init__()
        require(0.0 < temperature < float("inf"), "temperature", temperature, "above 0, finite")
        self.purifier, self.temperature, self.network_calls = purifier, temperature, purifier.network_calls
        self.relaxation: Relaxation = forward

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        # The mask carries a gradient, so it is computed here and not in ``prepare``.
        return self.purifier.purify(x, draws, self.purifier.mask.relaxed(x, self.temperature, self.relaxation))
