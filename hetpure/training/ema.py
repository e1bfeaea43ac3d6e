"""Exponential moving average of weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def warmed_up_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """An averaging rule for torch's ``AveragedModel``: decay min(``decay``, (1 + n) / (10 + n)) at update n.

    The ramp lets a short run forget its first weights, and leaves a long one's decay as it is.
    """

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return update


def averaged(module: torch.nn.Module, decay: float) -> AveragedModel:
    """A copy of the module that follows its weights; call ``update_parameters`` after each step."""
    return AveragedModel(module, multi_avg_fn=warmed_up_ema(decay)).requires_grad_(False).eval()
