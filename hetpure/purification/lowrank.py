"""Projections on leading eigenspaces, with a gradient that needs no gap but the one at the cut."""

from typing import Any

import torch
from torch import Tensor


def leading_projector(gram: Tensor, rank: int) -> Tensor:
    """P = U U^T over the ``rank`` leading eigenvectors U of symmetric matrices (N, d, d), differentiable.

    Autograd through an SVD divides by every pair's gap, though P does not depend on the basis inside either space:
    here only pairs across the cut count, dP = sum u_i u_j^T (u_i^T dG u_j) / (l_i - l_j) + its transpose. Exact
    wherever the spectrum has a gap at the cut; where it has none (say, a black image) the gradient is taken as 0 for
    the pairs without one.
    """
    out = _Projector.apply(gram, rank)
    assert isinstance(out, Tensor)
    return out


class _Projector(torch.autograd.Function):
    """See ``leading_projector``."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, rank: int) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        cut = gram.shape[-1] - rank
        ctx.save_for_backward(values, vectors)
        ctx.cut = cut
        leading = vectors[..., cut:]
        return leading @ leading.mT

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
