"""LoRID (Zollicoffer et al. 2024): a Tucker approximation of low rank, then loops of weak diffusion and denoising."""

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.lowrank import tucker
from hetpure.purification.rounds import RoundsPurifier


class LowRankIterativePurifier(RoundsPurifier):
    """x <- Tucker(x), then ``loops`` times x <- denoise(sqrt(abar_t) x + sqrt(1 - abar_t) eps) with a small t.

    The Tucker approximation is that of one image as a C x H x W tensor on [-1, 1], so that neighbours play no part; H
    and W get ``share`` of their ranks, the channels keep theirs.

    Args:
        denoiser: the noise predictor.
        t: noise level of each loop, fraction of T.
        loops: L. The default t and loops add up to the 0.1 at which DiffPure noises CIFAR-10 once; the paper's own
            settings were not to be had.
        steps: each loop's network calls; divides t * T.
        eta: 1 for DDPM steps, 0 for DDIM.
        share: of the ranks of H and W that are kept; 1 leaves the image as it is.
        sweeps: of higher-order orthogonal iteration after the truncated higher-order SVD.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: float = 0.025,
        loops: int = 4,
        steps: int = 25,
        eta: float = 1.0,
        share: float = 0.75,
        sweeps: int = 1,
    ) -> None:
        if loops < 1:
            raise ValueError(f"loops = {loops} must be at least 1")
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share = {share} must lie in (0, 1]")
        if sweeps < 0:
            raise ValueError(f"sweeps = {sweeps} must be at least 0")
        super().__init__(denoiser, [t] * loops, [steps] * loops, eta)
        self.share, self.sweeps = share, sweeps

    def trajectory(self, image: Tensor, draws: Draws) -> list[Tensor]:
        """See ``RoundsPurifier``: of the low-rank image."""
        return super().trajectory(self.low_rank(image), draws)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the low-rank image before the loops."""
        return {"low rank": to_unit(self.low_rank(to_signed(x))), **super().views(x, draws)}

    def low_rank(self, image: Tensor) -> Tensor:
        """The Tucker approximation of each image (N, C, H, W)."""
        channels, height, width = image.shape[1:]
        ranks = (channels, *(max(int(self.share * size), 1) for size in (height, width)))
        return tucker(image, ranks, self.sweeps)
