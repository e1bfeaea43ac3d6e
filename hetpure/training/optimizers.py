"""Optimisers and learning-rate schedules by name."""

from collections.abc import Iterable
from typing import Any

from diffusers.optimization import get_scheduler
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from hetpure.errors import ConfigError

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}


def check(optimizer: str, schedule: str) -> None:
    """Raises ConfigError for a name of an optimiser or a schedule that there is not."""
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer.name: found {optimizer!r}, accepted are {', '.join(OPTIMIZERS)}")
    if schedule not in SCHEDULES:
        raise ConfigError(f"optimizer.schedule: found {schedule!r}, accepted are {', '.join(SCHEDULES)}")


def build_optimizer(
    parameters: Iterable[Parameter], name: str, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> Optimizer:
    """The optimiser called ``name``: adam, adamw, or sgd (Nesterov; the only one to use ``momentum``)."""
    if name == "adam":
        return Adam(parameters, lr, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(parameters, lr, weight_decay=weight_decay)
    return SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)


def with_schedule(optimizer: Optimizer, schedule: str, warmup_steps: int, steps: int) -> dict[str, Any]:
    """What Lightning's ``configure_optimizers`` returns: the optimiser, its rate set at every step.

    Args:
        optimizer: the optimiser.
        schedule: ``constant`` or ``cosine`` (to zero at ``steps``), after a linear warm-up.
        warmup_steps: length of the warm-up.
        steps: length of the run.
    """
    scheduler = get_scheduler(SCHEDULES[schedule], optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
