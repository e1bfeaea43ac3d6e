"""The adversarial images that objectives train against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hetpure.errors import require


def sign_ascent(
    logits: Callable[[Tensor], Tensor],
    image: Tensor,
    label: Tensor,
    offset: Tensor,
    eps: float | Tensor,
    step_size: float,
    steps: int,
) -> Tensor:
    """PGD in the Linf ball of radius eps around an image: signs of the cross-entropy's gradient, projected.

    Args:
        logits: of images (B, C, H, W).
        image: (B, C, H, W) in [0, 1].
        label: (B,) int64.
        offset: (B, C, H, W) on [-1, 1], the random start as a share of eps.
        eps: radius, one for all or (B, 1, 1, 1).
        step_size: of a step.
        steps: how many.

    Returns:
        Images (B, C, H, W) in [0, 1], without a graph; also where gradients are switched off outside.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image, label, offset = image.clone(), label.clone(), offset.clone()  # those of validation know no gradients
        low, high = (image - eps).clamp(0, 1), (image + eps).clamp(0, 1)
        x = (image + eps * offset).clamp(0, 1)
        for _ in range(steps):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(logits(x).float(), label, reduction="sum"), x)
            x = torch.minimum(torch.maximum(x.detach() + step_size * gradient.sign(), low), high)
    return x.detach()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def check_ascent(eps: float, step_size: float, steps: int) -> None:
    """Raises ConfigError for arguments of ``sign_ascent`` that make no sense."""
    require(0.0 < eps <= 1.0, "eps", eps, "above 0 and up to 1, for images in [0, 1]")
    require(0.0 < step_size <= 1.0, "step_size", step_size, "above 0 and up to 1")
    require(steps >= 1, "pgd_steps", steps, "1 or more")
