"""Exponential moving average of weights."""

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of the module that follows its weights; call ``update_parameters`` after each step.

    The decay of update n is min(``decay``, (1 + n) / (10 + n)): the ramp lets a short run forget its first weights, and
    leaves a long one's decay as it is.
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        ramp = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, ramp))(averaged, current, count)

    return AveragedModel(module, multi_avg_fn=update).requires_grad_(False).eval()
