"""StAdv (Xiao et al. 2018): moves pixels instead of changing their values."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetpure.attacks.base import Threat
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.parameters import ImageParameters, ParameterAttack
from hetpure.attacks.search import Observer, Search
from hetpure.errors import require

TINY = 1e-10
"""Under the square root of the flow's roughness, whose derivative is infinite at 0."""


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Images (N, C, H, W) whose pixel p is x's at p + flow(p), between pixels bilinearly, beyond the edge the edge's.

    The flow (N, H, W, 2) has components right and down, in units of half the width and half the height.
    """
    identity = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
    grid = functional.affine_grid(identity, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid + flow, mode="bilinear", padding_mode="border", align_corners=False)


def roughness(flow: Tensor) -> Tensor:
    """The sum over pixels and their four neighbours of the length of the flow's change (Xiao et al. 2018, eq. 4).

    Beyond the edge the flow goes on as it is, so nothing changes there.
    """
    total = flow.new_zeros(())
    for axis in (1, 2):
        change = flow.diff(dim=axis)
        # Each pair of neighbours is counted from both ends.
        total = total + 2.0 * (change.square().sum(dim=-1) + TINY).sqrt().sum()
    return total


class Flow(ImageParameters):
    """The flow field of one image x (1, C, H, W): from zero, within eps in each component."""

    def __init__(self, x: Tensor, eps: float, step_size: float, weight: float) -> None:
        self.x, self.eps, self.weight = x, eps, weight
        self.flow = x.new_zeros(1, *x.shape[2:], 2)
        super().__init__([(self.flow, step_size)])

    def image(self) -> Tensor:
        return warp(self.x, self.flow)

    def penalty(self, image: Tensor) -> Tensor:
        return self.weight * roughness(self.flow)

    def constrain(self) -> None:
        self.flow.clamp_(-self.eps, self.eps)


class StAdv(ParameterAttack):
    """A flow field that maximises loss - smoothness / eps * roughness, from zero; returns the last iterate.

    The bound, step and weight of Laidlaw & Feizi (2019), which DiffPure uses. A flow of 0.05 moves by 0.8 pixels where
    an image is 32 pixels wide, and by 5.6 where it is 224.

    Args:
        norm: the threat model's name.
        eps: bound of each component of the flow, in units of half the image's width or height.
        steps: iterations.
        step_size: Adam's learning rate, in units of the flow.
        smoothness: weight of the flow's roughness, in units of 1 / eps.
        loss: what is maximised.
    """

    def __init__(
        self,
        norm: Literal["StAdv"] = "StAdv",
        eps: float = 0.05,
        steps: int = 100,
        step_size: float = 0.01,
        smoothness: float = 0.0025,
        loss: str = "margin",
    ) -> None:
        super().__init__(Threat(norm, eps), steps, loss)
        require(norm == "StAdv", "norm", norm, "StAdv")
        require(step_size > 0.0, "step_size", step_size, "above 0")
        require(smoothness >= 0.0, "smoothness", smoothness, "0 or more")
        self.eps, self.step_size, self.smoothness = eps, step_size, smoothness

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        weight = self.smoothness / self.eps
        flows = [Flow(one.contiguous(), self.eps, self.step_size, weight) for one in x.split(1)]
        for _ in self.iterates(Search(gradient, x, label, sample, 1, observe), flows):
            pass
        return self.images(flows)

    def __str__(self) -> str:
        return f"{self.threat}, {self.steps} steps of {self.step_size:g}" + f", {self.loss}" * (self.loss != "margin")
