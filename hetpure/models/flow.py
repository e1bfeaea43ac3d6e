"""Flows: networks that predict the velocity of images on their way from perturbed to clean ones."""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from hetpure.models.diffusers_folder import LABELS, load_flow


class FlowField(nn.Module):
    """The velocity dx/ds at time s of a flow from perturbed (s = 0) to clean images (s = 1), scaled to [-1, 1].

    Args:
        unet: predicts -dx/ds at the label 1000 (1 - s), as flow matching in diffusers does.
    """

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, s: float) -> Tensor:
        """The velocity (B, C, H, W) of x (B, C, H, W) at time s in [0, 1]."""
        labels = torch.full((len(x),), LABELS * (1.0 - s), device=x.device)
        return -self.unet(x, labels, return_dict=False)[0].contiguous()


def load_flow_field(path: str) -> FlowField:
    """Loads a diffusers folder; CheckpointError where it is not that of a flow."""
    return FlowField(load_flow(path))
