"""Losses that attacks maximise: of logits, one value an image, larger where the classifier is more wrong."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from hetpure.config.plugins import FORMS, entry_points, is_target, load
from hetpure.errors import ConfigError, require

_TINY = 1e-12


class Loss(ABC):
    """A loss of logits, which needs at least so many ``classes``."""

    classes: int = 2

    @abstractmethod
    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of each row, (N,), of logits (N, K) and true classes (N,)."""

    def rows(self, index: Tensor) -> "Loss":
        """The same loss for a selection of the images, where it holds more of each image than its label."""
        return self


class CrossEntropy(Loss):
    """-log softmax(z)_y."""

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(logits, label, reduction="none")


class Margin(Loss):
    """max_{k != y} z_k - z_y (Carlini & Wagner 2017): positive exactly where the row is misclassified."""

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        right = logits.gather(1, label[:, None])[:, 0]
        return best_other(logits, label) - right


class DLR(Loss):
    """-(z_y - max_{k != y} z_k) / (z_(1) - z_(3)), z sorted downwards (Croce & Hein 2020, eq. 6).

    Invariant to shifts and positive scales of the logits, so it still has a gradient where softmax is saturated.
    """

    classes = 3

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        top = logits.sort(dim=1).values
        right = logits.gather(1, label[:, None])[:, 0]
        other = torch.where(logits.argmax(dim=1) == label, top[:, -2], top[:, -1])
        return -(right - other) / (top[:, -1] - top[:, -3] + _TINY)


class TargetedDLR(Loss):
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) for a target class t an image (Croce & Hein 2020, eq. 7)."""

    classes = 4

    def __init__(self, target: Tensor) -> None:
        self.target = target

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        top = logits.sort(dim=1).values
        right = logits.gather(1, label[:, None])[:, 0]
        targeted = logits.gather(1, self.target[:, None])[:, 0]
        return -(right - targeted) / (top[:, -1] - 0.5 * (top[:, -3] + top[:, -4]) + _TINY)

    def rows(self, index: Tensor) -> "TargetedDLR":
        return TargetedDLR(self.target[index])


LOSSES: dict[str, Loss] = {"ce": CrossEntropy(), "margin": Margin(), "dlr": DLR()}
"""Losses that need no target, by name."""


GROUP = "hetpure.losses"
"""Of the entry points by which installed packages offer losses."""


def find_loss(name: str, *others: str) -> Loss:
    """The loss of a name: of ``LOSSES``, of an installed package, or a ``Loss`` class of the user's.

    Args:
        name: such as ``ce``, or ``FILE.py:Class``, which is built without arguments.
        *others: what else is accepted, for messages.

    Raises:
        ConfigError: about ``loss``.
    """
    if name in LOSSES:
        return LOSSES[name]
    offered = entry_points(GROUP)
    if name not in offered and not is_target(name):
        raise ConfigError("loss", found=name, accepted=f"{', '.join((*LOSSES, *others, *offered))}, or {FORMS}")
    loss = load(offered.get(name, name), "loss")
    is_loss = isinstance(loss, type) and issubclass(loss, Loss)
    require(is_loss, "loss", name, "a subclass of hetpure.attacks.losses.Loss")
    return loss()


def best_other(logits: Tensor, label: Tensor) -> Tensor:
    """The largest logit of another class than the label's, (N,)."""
    return logits.scatter(1, label[:, None], float("-inf")).amax(dim=1)
