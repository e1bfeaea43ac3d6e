"""Projections on leading eigenspaces, with a gradient that needs no gap but the one at the cut."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def leading_projector(gram: Tensor, rank: int) -> Tensor:
    """P = U U^T over the ``rank`` leading eigenvectors U of symmetric matrices (N, d, d), differentiable.

    Autograd through an SVD divides by every pair's gap, though P does not depend on the basis inside either space:
    here only pairs across the cut count, dP = sum u_i u_j^T (u_i^T dG u_j) / (l_i - l_j) + its transpose. Exact
    wherever the spectrum has a gap at the cut; where it has none (say, a black image) the gradient is taken as 0 for
    the pairs without one. A matrix that is not finite somewhere gives NaN, and the others what they give without it.
    """
    out = _Projector.apply(gram, rank)
    assert isinstance(out, Tensor)
    return out


def tucker(x: Tensor, ranks: Sequence[int], sweeps: int) -> Tensor:
    """Tucker approximation of each tensor (N, d_1, .., d_k) with the given ranks, differentiable.

    Truncated higher-order SVD (De Lathauwer et al. 2000a), then ``sweeps`` rounds of higher-order orthogonal iteration
    (2000b): each mode's leading space afresh, of the tensor projected in the other modes. A factor only enters by its
    projector U U^T, which has a gradient where the factor itself has none.
    """
    projectors = [_mode_projector(x, mode, rank) for mode, rank in enumerate(ranks, start=1)]
    for _ in range(sweeps):
        for mode, rank in enumerate(ranks, start=1):
            others = [None if number == mode else p for number, p in enumerate(projectors, start=1)]
            projectors[mode - 1] = _mode_projector(_project(x, others), mode, rank)
    return _project(x, projectors)


def _mode_projector(x: Tensor, mode: int, rank: int) -> Tensor | None:
    """Of the leading space in one mode; None where that is the whole."""
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
        values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))  # refuses the whole batch for one of them
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
