"""Heterogeneous noise (section 3) and its two-stage denoising: Algorithm 1.

Where the classifier looks (mask M = 1), pixels get strong noise, t_large; elsewhere weak noise, t_small. Between the
two levels, stage 1 treats the inside of the mask as a hole to be inpainted: it is generated ("unknown"), while the
outside is the input noised to the current level ("known"). Below t_small, stage 2 is plain sampling.

Eq. (8) and Algorithm 1 print M * known + (1 - M) * unknown, which would regenerate what is to be preserved. Eq. (5),
the text of section 3.2 and the released code all have it the other way, and so does ``compose``.
"""

import itertools
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hetpure.models.activations import Block
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.mask import AttentionMask, Normalization, Relaxation, Selection
from hetpure.purification.steps import End, check_eta, check_level, denoise_step, grid
from hetpure.schedule import Schedule

Resampling = Literal["none", "single", "fused", "repaint"]
Order = Literal["released", "paper"]
Watch = Callable[[int, Tensor], None]


def compose(mask: Tensor, unknown: Tensor, known: Tensor) -> Tensor:
    """X = M * unknown + (1 - M) * known: eq. (8) as the text means it (see the module's docstring)."""
    # lerp is exact at 0 and 1, and keeps nothing but the mask for the backward pass.
    return torch.lerp(known, unknown, mask)


def heterogeneous_noise(
    x0: Tensor, mask: Tensor, schedule: Schedule, t_large: int, t_small: int, draws: Draws
) -> Tensor:
    """x(t_large, t_small) = M * x(t_large) + (1 - M) * x(t_small): eq. (5), one noise draw for both (eq. 1).

    Args:
        x0: (N, C, H, W), scaled to [-1, 1].
        mask: M, (N, 1, H, W).
        schedule: the schedule.
        t_large: timestep inside the mask.
        t_small: timestep outside.
        draws: keys of the N rows.
    """
    noise = draws.normal_like(x0, "diffuse", t_large)
    return compose(mask, schedule.diffuse(x0, t_large, noise), schedule.diffuse(x0, t_small, noise))


class HeterogeneousPurifier(Purifier):
    """Algorithm 2's mask, then Algorithm 1's denoising.

    The paper's text and its released code part in places. Every such place is an argument; ``PRESETS`` sets them all:
    ``released`` (the code behind the published numbers; the defaults) and ``paper`` (the text, read sensibly).

    Args:
        denoiser: the noise predictor.
        classifier: whose attention the mask follows.
        t_large: the paper's t_l, fraction of T: noise inside the mask.
        t_small: the paper's t_s, fraction of T, below t_large: noise outside.
        steps: grid points of the whole range 0..T-1 (500: every second timestep).
        eta: 0 for DDIM steps, 1 for Algorithm 1's printed DDPM steps.
        end: ``t0`` stops at timestep 0's noise level (released loop), ``clean`` goes on to x(0) (Algorithm 1).
        order: ``paper`` steps t -> s and then composes known and unknown at s; ``released`` composes at t and then
            steps to s.
        resampling: stage 1's cure for seams. ``single``: eq. (11), noise s -> s + U and one step back, one more network
            call; ``fused``: noise t -> t + U and take the grid's own step from there, no extra call (released);
            ``repaint``: the U-fold loop of RePaint that ``single`` replaces; ``none``.
        U: resampling length, in timesteps (``repaint``: number of rounds).
        blocks: see ``AttentionMask``, as all that follow.
        normalization: phi of eq. (3).
        p: exponent of eq. (2).
        root: whether eq. (2)'s root is taken.
        selection: threshold at tau, or top_fraction of the pixels.
        tau: mask threshold.
        top_fraction: share of masked pixels.

    Raises:
        ValueError: names the argument that cannot be.
    """

    PRESETS: ClassVar[dict[str, dict]] = {
        "released": {
            "t_large": 0.2,
            "t_small": 0.1,
            "steps": 500,
            "eta": 0.0,
            "end": "t0",
            "order": "released",
            "resampling": "fused",
            "U": 3,
            "normalization": "minmax",
            "p": 2,
            "root": False,
            "selection": "threshold",
            "tau": 0.9,
        },
        "paper": {
            "t_large": 0.2,
            "t_small": 0.05,
            "steps": 1000,
            "eta": 1.0,
            "end": "clean",
            "order": "paper",
            "resampling": "single",
            "U": 10,
            # A spatial softmax as printed never reaches tau: min-max is the sensible reading.
            "normalization": "minmax",
            "p": 2,
            "root": True,
            "selection": "threshold",
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
        steps: int = 500,
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
        check_level("t_large", t_large)
        check_level("t_small", t_small)
        if t_small >= t_large:
            raise ValueError(f"t_small = {t_small} must lie below t_large = {t_large}")
        check_eta(eta)
        if order not in ("released", "paper"):
            raise ValueError(f"order = {order!r} must be released or paper")
        if resampling not in ("none", "single", "fused", "repaint"):
            raise ValueError(f"resampling = {resampling!r} must be none, single, fused or repaint")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.timesteps = grid(self.schedule, t_large, steps, end)
        self.t_small = t_small * self.schedule.T
        self.eta, self.U = eta, U
        self.order, self.resampling = order, resampling
        if U < 1 or self.timesteps[0] + U >= self.schedule.T:
            raise ValueError(f"U = {U} must be at least 1 and t_large * T + U below T = {self.schedule.T}")
        if not any(map(self._in_stage_1, self.timesteps, self.timesteps[1:])):
            raise ValueError(
                f"steps = {steps} puts no grid point between t_small = {t_small} and t_large = {t_large}: "
                "stage 1 would be empty and the mask without effect; use more steps"
            )
        self.mask = AttentionMask(classifier, blocks, normalization, p, root, selection, tau, top_fraction)

    @property
    def network_calls(self) -> int:
        stage_1 = sum(map(self._in_stage_1, self.timesteps, self.timesteps[1:]))
        calls_each = {"none": 1, "fused": 1, "single": 2, "repaint": self.U}[self.resampling]
        return len(self.timesteps) - 1 + stage_1 * (calls_each - 1)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """The attention mask M (B, 1, H, W): the same for every draw."""
        return (self.mask(x),)

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        """See ``Purifier``; prepared is the mask."""
        (mask,) = prepared
        return to_unit(self.denoise(to_signed(x), mask, draws))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: attention map, mask, the image under heterogeneous noise (eq. 5), purified."""
        with torch.no_grad():
            attention = self.mask.attention(x)
            mask = self.mask.select(attention)
            noisy = heterogeneous_noise(to_signed(x), mask, self.schedule, self.timesteps[0], int(self.t_small), draws)
            purified = self.purify(x, draws, mask)
        return {
            "attention map": attention,
            "mask": mask,
            "heterogeneous noise": to_unit(noisy),
            "purified": purified,
        }

    def denoise(self, x0: Tensor, mask: Tensor, draws: Draws, watch: Watch | None = None) -> Tensor:
        """Algorithm 1.

        Args:
            x0: the image, (N, C, H, W), scaled to [-1, 1].
            mask: M, (N, 1, H, W).
            draws: keys of the N rows.
            watch: called with (timestep, x) after every step, for looking inside.

        Returns:
            (N, C, H, W), scaled to [-1, 1], not clamped.
        """
        # Before the first step all pixels stand at t_large: outside the mask this is "known" (eq. 6), which replaces
        # x(t_small) of eq. (5) by further noising at every step until t_small is reached.
        x = self._known(x0, self.timesteps[0], draws)
        t = self.timesteps[0]
        stage = self._stage_1_paper if self.order == "paper" else self._stage_1_released
        for here, s in itertools.pairwise(self.timesteps):
            if self._in_stage_1(here, s):
                x, t = stage(x, t, s, x0, mask, draws)
            else:
                x, t = self._step(x, t, s, draws), s
            if watch is not None:
                watch(t, x)
        return x

    def _in_stage_1(self, t: int, s: int) -> bool:
        """The paper asks where a step starts, the released code where it ends."""
        return (t if self.order == "paper" else s) >= self.t_small

    def _stage_1_paper(self, x: Tensor, t: int, s: int, x0: Tensor, mask: Tensor, draws: Draws) -> tuple[Tensor, int]:
        """x(t) to x(s): step, compose at s, resample. Returns the timestep reached too: s, or s + U where fused."""
        for u in range(self.U if self.resampling == "repaint" else 1):
            if u > 0:
                x = self._noise_up(x, s, t, draws, u)
            x = compose(mask, self._step(x, t, s, draws, u), self._known(x0, s, draws, u))
        if self.resampling == "single":
            x = self._step(self._noise_up(x, s, s + self.U, draws), s + self.U, s, draws, round=1)
        elif self.resampling == "fused":
            return self._noise_up(x, s, s + self.U, draws), s + self.U
        return x, s

    def _stage_1_released(
        self, x: Tensor, t: int, s: int, x0: Tensor, mask: Tensor, draws: Draws
    ) -> tuple[Tensor, int]:
        """x(t) to x(s): compose at t, resample, step."""
        for u in range(self.U if self.resampling == "repaint" else 1):
            if u > 0:
                x = self._noise_up(x, s, t, draws, u)
            x = compose(mask, x, self._known(x0, t, draws, u))
            start = t
            if self.resampling == "single":
                x = self._step(self._noise_up(x, t, t + self.U, draws), t + self.U, t, draws, round=1)
            elif self.resampling == "fused":
                start = t + self.U
                x = self._noise_up(x, t, start, draws)
            x = self._step(x, start, s, draws, u)
        return x, s

    def _known(self, x0: Tensor, t: int, draws: Draws, round: int = 0) -> Tensor:
        """Eq. (6): the input noised to t."""
        noise = draws.normal_like(x0, "diffuse", t + round * self.schedule.T)
        return self.schedule.diffuse(x0, t, noise)

    def _noise_up(self, x: Tensor, s: int, t: int, draws: Draws, round: int = 0) -> Tensor:
        """Eq. (10), t - s times at once: x(s) to x(t)."""
        return self.schedule.diffuse_further(x, s, t, draws.normal_like(x, "resample", s + round * self.schedule.T))

    def _step(self, x: Tensor, t: int, s: int, draws: Draws, round: int = 0) -> Tensor:
        """Eqs. (7), (9) and (11): x(t) to x(s) by the network."""
        return denoise_step(self.schedule, self.denoiser, x, t, s, self.eta, draws, round)


class MaskAwarePurifier(Purifier):
    """A heterogeneous purifier as an attacker differentiates it who also wants to move the mask.

    The defense's mask is an indicator: it has no gradient, and the exact gradient of the defense treats it as a
    constant though the attack moves it. Here the mask is relaxed (``AttentionMask.relaxed``), so that the gradient goes
    through the classifier's attention as well. No defense: only attack processes have it.

    Args:
        purifier: the purifier under attack.
        temperature: width of the sigmoid, in units of the attention map.
        forward: ``soft`` purifies with the relaxed mask, ``hard`` with the defense's.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, purifier: HeterogeneousPurifier, temperature: float, forward: Relaxation) -> None:
        super().__init__()
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"temperature = {temperature} must be above 0 and finite")
        if forward not in ("soft", "hard"):
            raise ValueError(f"forward = {forward!r} must be soft or hard")
        self.purifier, self.temperature = purifier, temperature
        self.relaxation: Relaxation = forward

    @property
    def network_calls(self) -> int:
        return self.purifier.network_calls

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        """See ``Purifier``. The mask carries a gradient, so it is made here and not prepared."""
        return self.purifier.purify(x, draws, self.purifier.mask.relaxed(x, self.temperature, self.relaxation))
