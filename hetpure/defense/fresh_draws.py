"""The defense as other libraries want a model: images to logits, with new noise in every call."""

import torch
from torch import Tensor, nn

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import require
from hetpure.models.denoisers import Denoiser, Recomputed
from hetpure.noise import Draws
from hetpure.purification.base import Purifier


class FreshDraws(nn.Module):
    """A defense as an ``nn.Module`` from images to logits that purifies with new noise in every call.

    ``defense(x)`` gives the same scores twice, so code from elsewhere that averages over calls (EOT) would average one
    draw. Here every call draws anew, keyed by ``seed``, the number of the call and the image's position in it; nothing
    is shared with the draws of an evaluation. The gradient is exact. The networks are put into evaluation mode, stay
    in it, and are frozen.

    >>> model = hetpure.FreshDraws(defense)  # doctest: +SKIP
    >>> x_adv = torchattacks.EOTPGD(model, eot_iter=20)(x, y)  # doctest: +SKIP

    Args:
        defense: the defense; its ensemble is not used.
        draws: purifications of each image in a call; their logits are averaged.
        seed: of the noise.
        recompute: whether the backward pass computes each denoising step again: memory is then that of one step.

    Attributes:
        calls: number of calls so far. The same number gives the same noise, so set it back to repeat a computation.

    Raises:
        ConfigError: for draws below 1.
    """

    calls: int

    def __init__(self, defense: PurifiedClassifier, draws: int = 1, seed: int = 0, recompute: bool = True) -> None:
        super().__init__()
        require(draws >= 1, "draws", draws, "1 or more")
        purifier = recomputing(defense.purifier) if recompute else defense.purifier
        self.process = PurifiedClassifier(defense.classifier, purifier, defense.num_classes)
        self.process.chunk_size = defense.chunk_size
        self.draws, self.seed, self.calls = draws if defense.stochastic else 1, seed, 0
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W) in [0, 1]."""
        position = torch.arange(len(x), device=x.device).repeat_interleave(self.draws)
        first = self.calls * self.draws
        draw = torch.arange(first, first + self.draws, device=x.device).repeat(len(x))
        self.calls += 1
        logits = self.process.purified_logits(x, Draws(self.seed, "fresh", position, draw))
        return logits.unflatten(0, (len(x), self.draws)).mean(dim=1)

    def train(self, mode: bool = True) -> "FreshDraws":
        """Stays in evaluation mode: attack libraries switch modes, and a defense has only this one."""
        return super().train(False)


def recomputing(purifier: Purifier) -> Purifier:
    """The same purifier, built again around its denoiser with ``Recomputed``; as it is where it takes no denoiser."""
    denoiser = purifier.arguments.get("denoiser")
    if not isinstance(denoiser, Denoiser) or isinstance(denoiser, Recomputed):
        return purifier
    return type(purifier)(**{**purifier.arguments, "denoiser": Recomputed(denoiser)})
