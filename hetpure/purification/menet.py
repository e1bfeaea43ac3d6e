"""ME-Net (Yang et al. 2019): drop pixels at random, complete the image as a matrix of low rank."""

from torch import Tensor

from hetpure.errors import require
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.lorid import leading_projector


class MENetPurifier(Purifier):
    """x <- USVT(m * x) / p^, m Bernoulli(p) for each entry, p^ the share of entries kept.

    The channels are placed side by side in one H x CW matrix on [-1, 1]. Universal singular value thresholding keeps
    the leading ``share`` of its H singular values: the released code fixes the share where Chatterjee 2015 has a
    threshold. There is no network. The paper trains its classifier on such images; here the classifier is as it is.

    Args:
        p: probability that an entry is kept: 0.9, the released test default (the mean of its 0.8 and 1).
        share: share of the singular values that are kept.
    """

    def __init__(self, p: float = 0.9, share: float = 0.8) -> None:
        super().__init__()
        require(0.0 < p <= 1.0, "p", p, "above 0, at most 1")
        require(0.0 < share <= 1.0, "share", share, "above 0, at most 1")
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
        return {"masked": to_unit(to_signed(x) * self._mask(x, draws)), **super().views(x, draws)}

    def _mask(self, x: Tensor, draws: Draws) -> Tensor:
        return (draws.uniform("mask", 0, x.shape[1:], x.dtype) < self.p).to(x.dtype)
