"""LoRID (Zollicoffer et al. 2024): a Tucker approximation of low rank, then loops of weak diffusion and denoising."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.sampling import RoundsPurifier


class LowRankIterativePurifier(RoundsPurifier):
    """x <- Tucker(x), then ``loops`` times x <- denoise(sqrt(abar_t) x + sqrt(1 - abar_t) eps) with a small t.

    The Tucker approximation is that of one image as a C x H x W tensor on [-1, 1], so a result does not depend on its
    neighbours. H and W get ``share`` of their ranks, the channels keep theirs.

    Args:
        denoiser, t, eta: see ``SamplingPurifier``.
        loops: L. The default t and loops add up to the 0.1 at which DiffPure noises CIFAR-10 once; the paper's own
            settings were not available.
        network_calls: each loop's network calls; a divisor of t * T.
        share: share of the ranks of H and W that are kept; 1 leaves the image as it is.
        sweeps: sweeps of higher-order orthogonal iteration after the truncated higher-order SVD.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: float = 0.025,
        loops: int = 4,
        network_calls: int = 25,
        eta: float = 1.0,
        share: float = 0.75,
        sweeps: int = 1,
    ) -> None:
        require(loops >= 1, "loops", loops, "1 or more")
        require(0.0 < share <= 1.0, "share", share, "above 0, at most 1")
        require(sweeps >= 0, "sweeps", sweeps, "0 or more")
        super().__init__(denoiser, [t] * loops, [network_calls] * loops, eta)
        self.share, self.sweeps = share, sweeps

    def after_rounds(self, image: Tensor, draws: Draws) -> list[Tensor]:
        return super().after_rounds(self.low_rank(image), draws)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"low rank": to_unit(self.low_rank(to_signed(x))), **super().views(x, draws)}

    def low_rank(self, image: Tensor) -> Tensor:
        """The Tucker approximation of each image (N, C, H, W)."""
        channels, height, width = image.shape[1:]
        ranks = (channels, *(max(int(self.share * size), 1) for size in (height, width)))
        return tucker(image, ranks, self.sweeps)


def leading_projector(gram: Tensor, rank: int) -> Tensor:
    """P = U U^T over the ``rank`` leading eigenvectors U of symmetric matrices (N, d, d), differentiable.

    Autograd through an SVD divides by the gap of every pair of eigenvalues, though P does not depend on the basis
    inside either space. Here only pairs across the cut count: dP = sum u_i u_j^T (u_i^T dG u_j) / (l_i - l_j) + its
    transpose. The gradient is exact if the spectrum has a gap at the cut; pairs without one (say, of a black image)
    contribute 0. A matrix with a value that is not finite gives NaN and does not affect the others.
    """
    out = _Projector.apply(gram, rank)
    assert isinstance(out, Tensor)
    return out


def tucker(x: Tensor, ranks: Sequence[int], sweeps: int) -> Tensor:
    """Tucker approximation of each tensor (N, d_1, .., d_k) with the given ranks, differentiable.

    Truncated higher-order SVD (De Lathauwer et al. 2000a), then ``sweeps`` rounds of higher-order orthogonal iteration
    (2000b): each mode's leading space again, of the tensor projected in the other modes. A factor enters only through
    its projector U U^T, which has a gradient even if the factor itself has none.
    """
    projectors = [_mode_projector(x, mode, rank) for mode, rank in enumerate(ranks, start=1)]
    for _ in range(sweeps):
        for mode, rank in enumerate(ranks, start=1):
            others = [None if number == mode else p for number, p in enumerate(projectors, start=1)]
            projectors[mode - 1] = _mode_projector(_project(x, others), mode, rank)
    return _project(x, projectors)


def _mode_projector(x: Tensor, mode: int, rank: int) -> Tensor | None:
    """Projector on the leading space of one mode; None if that is the whole space."""
    if rank >= x.shape[mode]:
        return None
    unfolded = x.movedim(mode, 1).flatten(2)
    return leading_projector(unfolded @ unfolded.mT, rank)


def _project(x: Tensor, projectors: Sequence[Tensor | None]) -> Tensor:
    """Multiplies x by a symmetric matrix (N, d, d) in each mode that has one."""
    for mode, projector in enumerate(projectors, start=1):
        if projector is not None:
            moved = x.movedim(mode, 1)
            x = (projector @ moved.flatten(2)).unflatten(2, moved.shape[2:]).movedim(1, mode)
    return x


class _Projector(torch.autograd.Function):
    """See ``leading_projector``."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, rank: int) -> Tensor:
        finite = gram.isfinite().flatten(1).all(dim=1)[:, None, None]
        values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))  # it would refuse the whole batch
        cut = gram.shape[-1] - rank
        ctx.save_for_backward(values, vectors)
        ctx.cut = cut
        leading = vectors[..., cut:]
        return torch.where(finite, leading @ leading.mT, torch.nan)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, vectors = ctx.saved_tensors
        rest, leading = vectors[..., : ctx.cut], vectors[..., ctx.cut :]
        gap = values[..., ctx.cut :, None] - values[..., None, : ctx.cut]
        tiny = values.abs().amax(-1)[..., None, None] * torch.finfo(values.dtype).eps
        weight = torch.where(gap > tiny, 1.0 / gap.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
        symmetric = 0.5 * (grads[0] + grads[0].mT)
        inner = 2.0 * (leading.mT @ symmetric @ rest) * weight
        half = leading @ inner @ rest.mT
        return 0.5 * (half + half.mT), None
