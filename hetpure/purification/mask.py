"""Algorithm 2: the attention mask, 1 where the classifier looks.

The mask comes from the classifier's own view of the image in [0, 1], through its own normalisation. The released code
mistakenly normalises images that are already scaled to [-1, 1], with ImageNet's constants on CIFAR-10.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hetpure.arguments import KeepsArguments
from hetpure.errors import require
from hetpure.models.activations import Block, block_activations, check_blocks, default_blocks
from hetpure.models.classifiers import Classifier

Normalization = Literal["minmax", "softmax"]
Selection = Literal["threshold", "top_fraction"]
Relaxation = Literal["soft", "hard"]


def activation_strength(activation: Tensor, p: int, root: bool) -> Tensor:
    """G_m of eq. (2), (B, 1, H_m, W_m): the sum over channels of abs(A)^p for A_m (B, C_m, H_m, W_m).

    With the p-th root, as in eq. (2), or without, as in the released code.
    """
    strength = activation.abs().pow(p).sum(dim=1, keepdim=True)
    return strength.pow(1.0 / p) if root else strength


def normalize_map(strength: Tensor, normalization: Normalization) -> Tensor:
    """Phi of eq. (3), over the pixels of each (B, 1, H, W) map.

    ``minmax`` scales to [0, 1], as the released code does; a constant map has no peak and becomes 0. ``softmax`` is the
    paper's text: values sum to 1 over the pixels, so a threshold near 0.8 selects nothing.
    """
    flat = strength.flatten(1)
    if normalization == "softmax":
        return flat.softmax(dim=1).view_as(strength)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(torch.finfo(flat.dtype).tiny)).view_as(strength)


def attention_map(
    activations: Sequence[Tensor], size: tuple[int, int], p: int, root: bool, normalization: Normalization
) -> Tensor:
    """Maximum over blocks of the attention maps AM_m of eq. (3).

    The union of thresholded maps (eq. 4) is the thresholded maximum, so one map, (B, 1, H, W) in [0, 1], serves both
    selections. Each block's G_m is interpolated to the image's size (H, W) bilinearly, before phi.
    """
    strengths = [activation_strength(activation, p, root) for activation in activations]
    maps = [functional.interpolate(strength, size, mode="bilinear", align_corners=False) for strength in strengths]
    return torch.stack([normalize_map(each, normalization) for each in maps]).amax(dim=0)


def select_threshold(attention: Tensor, tau: float) -> Tensor:
    """Eq. (4): 1 where the (B, 1, H, W) attention map is tau or more, so that tau = 1 keeps the peak."""
    return (attention >= tau).to(attention.dtype)


def select_top_fraction(attention: Tensor, fraction: float) -> Tensor:
    """1 at the int(fraction * H * W) strongest pixels of each (B, 1, H, W) map (released code on ImageNet)."""
    flat = attention.flatten(1)
    strongest = flat.topk(int(flat.shape[1] * fraction), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, strongest, 1.0).view_as(attention)


def top_fraction_threshold(attention: Tensor, fraction: float) -> Tensor:
    """Midpoint between the weakest selected and the strongest other pixel of each map, (B, 1, 1, 1); differentiable."""
    flat = attention.flatten(1)
    count = int(flat.shape[1] * fraction)
    edge = flat.topk(min(count + 1, flat.shape[1]), dim=1).values
    weakest = edge[:, count - 1] if count > 0 else torch.full_like(edge[:, 0], float("inf"))
    strongest = edge[:, count] if count < flat.shape[1] else torch.full_like(edge[:, 0], float("-inf"))
    return ((weakest + strongest) / 2.0).view(-1, 1, 1, 1)


class AttentionMask(KeepsArguments, nn.Module):
    """Algorithm 2 for one classifier.

    Args:
        classifier: the classifier whose attention it is.
        blocks: timm stage indices or module names; None for a timm model's last four stages (Table 7 compares subsets).
        normalization: phi, see ``normalize_map``.
        p: exponent of eq. (2).
        root: whether to take the root of eq. (2).
        selection: ``threshold`` at tau (CIFAR-10) or ``top_fraction`` of the pixels (ImageNet).
        tau: threshold in [0, 1].
        top_fraction: share of pixels in (0, 1].
    """

    def __init__(
        self,
        classifier: Classifier,
        blocks: Sequence[Block] | None = None,
        normalization: Normalization = "minmax",
        p: int = 2,
        root: bool = False,
        selection: Selection = "threshold",
        tau: float = 0.9,
        top_fraction: float = 0.15,
    ) -> None:
        super().__init__()
        require(p >= 1, "p", p, "1 or more")
        require(0.0 <= tau <= 1.0, "tau", tau, "0 to 1")
        require(0.0 < top_fraction <= 1.0, "top_fraction", top_fraction, "above 0, at most 1")
        self.classifier = classifier
        self.blocks = default_blocks(classifier) if blocks is None else list(blocks)
        check_blocks(classifier, self.blocks)
        self.normalization: Normalization = normalization
        self.p, self.root, self.selection = p, root, selection
        self.tau, self.top_fraction = tau, top_fraction

    def attention(self, x: Tensor, blocks: Sequence[Block] | None = None) -> Tensor:
        """The attention map, (B, 1, H, W) in [0, 1], of images x (B, C, H, W) in [0, 1]; differentiable.

        Pixels outside the classifier's own crop get 0. ``blocks`` restricts the map to some of the blocks.
        """
        activations = block_activations(self.classifier, x, self.blocks if blocks is None else blocks)
        height, width = x.shape[-2], x.shape[-1]
        rows, columns = self.classifier.seen(height, width)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        seen = attention_map(activations, size, self.p, self.root, self.normalization)
        return functional.pad(seen, (columns.start, width - columns.stop, rows.start, height - rows.stop))

    def select(self, attention: Tensor) -> Tensor:
        """The mask (zeros and ones) of an attention map, both (B, 1, H, W)."""
        if self.selection == "threshold":
            return select_threshold(attention, self.tau)
        return select_top_fraction(attention, self.top_fraction)

    def forward(self, x: Tensor) -> Tensor:
        """The mask M, (B, 1, H, W) of zeros and ones, of images x (B, C, H, W) in [0, 1]; without a gradient."""
        with torch.no_grad():
            return self.select(self.attention(x))

    def relaxed(self, x: Tensor, temperature: float, forward: Relaxation) -> Tensor:
        """The mask with a gradient, (B, 1, H, W) in [0, 1]: sigmoid((attention - threshold) / temperature).

        For attacks that move it. As the temperature (above 0, in units of the attention map) goes to 0, the sigmoid
        becomes the indicator. ``soft`` is the sigmoid, ``hard`` the indicator with the sigmoid's gradient.
        """
        attention = self.attention(x)
        if self.selection == "threshold":
            threshold = torch.full_like(attention[:, :1, :1, :1], self.tau)
        else:
            threshold = top_fraction_threshold(attention, self.top_fraction)
        soft = ((attention - threshold) / temperature).sigmoid()
        # The difference is exactly zero and adds the gradient.
        return soft if forward == "soft" else self.select(attention.detach()) + (soft - soft.detach())
