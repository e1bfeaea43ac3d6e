"""The low-frequency attack of DiffBreak (Kassis et al. 2025): optimised filters, bounded by a perceptual distance."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetpure.attacks import perceptual
from hetpure.attacks.base import Threat
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.parameters import ImageParameters, ParameterAttack
from hetpure.attacks.search import Observer, Search
from hetpure.errors import require

SIGMA_START = 0.2
"""Of the Gaussian, in pixels, with which every filter starts: next to no smoothing."""

KERNELS = ((5, 5), (7, 7), (5, 5), (3, 3))
"""Height and width of DiffBreak's filters for CIFAR-10."""

NEARLY_ONE = 0.999999
"""Pixels of 0 and 1 have no finite tanh coordinate; these are as far as they go."""


def start_logits(kernel: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The filters of all pixels (h, w, H, W) at the start, as logits of one quarter of their symmetric kernels."""
    sides = []
    for size in kernel:
        taps = torch.exp(-((torch.arange(size) - size // 2) ** 2) / (2.0 * SIGMA_START**2))
        sides.append((taps / taps.sum())[: size // 2 + 1])
    quarter = torch.outer(*sides).clamp(1e-5, NEARLY_ONE).log()
    return quarter[:, :, None, None].repeat(1, 1, *shape)


def filtered(image: Tensor, guide: Tensor, logits: Tensor, sigma_color: float) -> Tensor:
    """A bilateral filter of an image (1, C, H, W) with a kernel of its own for each pixel.

    A tap's weight is the softmax of the mirrored logits (h, w, H, W), times exp(-d^2 / (2 sigma_color^2)), where d is
    the sum over channels of the guide's differences between tap and pixel. Weights are divided by their sum.
    """
    half = torch.cat([logits, logits[:-1].flip(0)])
    whole = torch.cat([half, half[:, :-1].flip(1)], dim=1)
    spatial = whole.flatten(0, 1).softmax(dim=0)  # (taps, H, W)
    patches, guides = (_patches(of, whole.shape[0], whole.shape[1]) for of in (image, guide))
    difference = (guides - guide[0, :, None]).abs().sum(dim=0)
    weights = spatial * torch.exp(-difference.square() / (2.0 * sigma_color**2))
    return ((patches * weights).sum(dim=1) / weights.sum(dim=0))[None]


def _patches(image: Tensor, height: int, width: int) -> Tensor:
    """What each tap sees at each pixel, (C, taps, H, W); beyond the edge the image is mirrored."""
    padded = image
    for dim, pad in ((2, height // 2), (3, width // 2)):
        # ``functional.pad`` has no deterministic gradient on GPUs.
        before = padded.narrow(dim, 1, pad).flip(dim)
        after = padded.narrow(dim, padded.shape[dim] - 1 - pad, pad).flip(dim)
        padded = torch.cat([before, padded, after], dim=dim)
    seen = functional.unfold(padded, (height, width))
    return seen.view(image.shape[1], height * width, *image.shape[2:])


class Filters(ImageParameters):
    """The parameters of one image: filters F_1 .. F_m and a modifier.

    The image is F_m(.. F_1((tanh(artanh(2 x - 1) + modifier) + 1) / 2)), filtered with x as the guide.

    Attributes:
        distance: of the image that took the last step.
    """

    def __init__(self, x: Tensor, attack: "LowFrequency") -> None:
        self.x, self.attack, self.distance = x, attack, math.inf
        self.measure = perceptual.load_lpips(x.device)
        self.coordinate = torch.atanh((2.0 * x - 1.0) * NEARLY_ONE)
        shape = (x.shape[2], x.shape[3])
        self.logits = [start_logits(kernel, shape).to(x) for kernel in attack.sizes]
        self.modifier = torch.zeros_like(x)
        groups = [(logits, attack.filter_step_size) for logits in self.logits]
        super().__init__([*groups, (self.modifier, attack.step_size)])

    def image(self) -> Tensor:
        image = (torch.tanh(self.coordinate + self.modifier) + 1.0) / 2.0
        for logits in self.logits:
            image = filtered(image, self.x, logits, self.attack.sigma_color)
        return image

    def penalty(self, image: Tensor) -> Tensor:
        distance = self.measure(image, self.x)
        self.distance = float(distance.detach())
        return self.attack.weight * distance * (self.distance >= self.attack.eps)

    def adjust(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients longer than 1 are shortened to 1: the distance's, with its weight, is very long."""
        return [gradient / torch.linalg.vector_norm(gradient).clamp_min(1.0) for gradient in gradients]


class LowFrequency(ParameterAttack):
    """Filters and a modifier that maximise loss - weight * d * [d >= eps], where d is LPIPS (VGG) to the clean image.

    Returns the iterate of the highest mean loss among those with d < eps, or the clean image where there is none. The
    defaults are DiffBreak's for CIFAR-10; for larger images it has more and larger kernels, and weight 1e4.

    Args:
        norm: the threat model's name.
        eps: bound of the distance.
        steps: iterations.
        step_size: Adam's learning rate of the modifier, in tanh coordinates.
        filter_step_size: Adam's learning rate of the filters' logits.
        kernels: height and width of each filter in order, odd; by default ``KERNELS``.
        sigma_color: of the filters, how much values of the clean image may differ to be mixed.
        weight: of the distance where it is too large.
        loss: what is maximised.
    """

    def __init__(
        self,
        norm: Literal["LPIPS"] = "LPIPS",
        eps: float = 0.05,
        steps: int = 100,
        step_size: float = 0.008,
        filter_step_size: float = 0.05,
        kernels: list[list[int]] | None = None,
        sigma_color: float = 0.05,
        weight: float = 1e8,
        loss: str = "margin",
    ) -> None:
        super().__init__(Threat(norm, eps), steps, loss)
        require(norm == "LPIPS", "norm", norm, "LPIPS")
        for name, value in {"step_size": step_size, "filter_step_size": filter_step_size, "weight": weight}.items():
            require(value > 0.0, name, value, "above 0")
        require(sigma_color > 0.0, "sigma_color", sigma_color, "above 0")
        pairs = KERNELS if kernels is None else kernels
        odd = all(len(pair) == 2 and all(size >= 1 and size % 2 for size in pair) for pair in pairs)
        require(odd, "kernels", kernels, "pairs of odd numbers, height and width")
        self.eps, self.step_size, self.filter_step_size = eps, step_size, filter_step_size
        self.sizes = [(kernel[0], kernel[1]) for kernel in pairs]
        self.sigma_color, self.weight = sigma_color, weight

    def check_images(self, indices: Sequence[int], clean: Callable[[int], Tensor]) -> None:
        """Checks that LPIPS can be had, and that the kernels fit into the images; see ``Attack``."""
        channels, height, width = clean(indices[0]).shape
        perceptual.check_lpips((channels, height, width))
        fit = all(h // 2 < height and w // 2 < width for h, w in self.sizes)
        accepted = f"less than twice the image's size, {height} x {width}"
        require(fit, "kernels", [list(size) for size in self.sizes], accepted)

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        parameters = [Filters(one.contiguous(), self) for one in x.split(1)]
        strongest, highest = x, x.new_full((len(x),), -math.inf)
        for x_adv, found in self.iterates(Search(gradient, x, label, sample, 1, observe), parameters):
            near = torch.tensor([each.distance < self.eps for each in parameters], device=x.device)
            better = near & (found.loss > highest)
            strongest = torch.where(better.view(-1, 1, 1, 1), x_adv, strongest)
            highest = torch.where(better, found.loss, highest)
        return strongest

    def __str__(self) -> str:
        filters = "no filters" if not self.sizes else "filters of " + ", ".join(f"{h}x{w}" for h, w in self.sizes)
        return f"low-frequency {self.threat}, {self.steps} steps, {filters}" + f", {self.loss}" * (
            self.loss != "margin"
        )
