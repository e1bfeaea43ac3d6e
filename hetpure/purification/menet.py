"""ME-Net (Yang et al. 2019): drop pixels at random, complete the image as a matrix of low rank."""

from torch import Tensor

from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.lowrank import leading_projector


class MENetPurifier(Purifier):
    """x <- USVT(m * x) / p^, m Bernoulli(p) for each entry, p^ the share of entries kept.

    The channels stand beside one another in one H x CW matrix on [-1, 1]; universal singular value thresholding keeps
    the leading ``share`` of its H singular values (the released code's fixed share, Chatterjee 2015's thresholding
    without a threshold). No network; the paper trains the classifier on such images, which is another classifier.

    Args:
        p: chance that an entry is kept: 0.9, the released test default (the mean of its 0.8 and 1).
        share: of the singular values that are kept.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, p: float = 0.9, share: float = 0.8) -> None:
        super().__init__()
        if not 0.0 < p <= 1.0:
            raise ValueError(f"p = {p} must lie in (0, 1]")
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share = {share} must lie in (0, 1]")
        self.p, self.share = p, share

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        mask = self._mask(x, draws)
        matrix = (to_signed(x) * mask).transpose(1, 2).flatten(2)
        rank = max(int(self.share * matrix.shape[1]), 1)
        # With rows = H <= CW, the leading left singular vectors do what the truncated SVD does.
        completed = leading_projector(matrix @ matrix.mT, rank) @ matrix
        kept = mask.flatten(1).mean(1).clamp_min(1.0 / mask[0].numel())
        signed = completed.unflatten(2, (x.shape[1], x.shape[3])).transpose(1, 2) / kept[:, None, None, None]
        return to_unit(signed)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the image with its gaps (grey: 0 on [-1, 1])."""
        return {"masked": to_unit(to_signed(x) * self._mask(x, draws)), **super().views(x, draws)}

    def _mask(self, x: Tensor, draws: Draws) -> Tensor:
        return (draws.uniform("mask", 0, x.shape[1:], x.dtype) < self.p).to(x.dtype)
