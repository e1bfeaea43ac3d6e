"""Base class of all purifiers, and what they share."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetpure.arguments import KeepsArguments
from hetpure.noise import Draws


class Purifier(KeepsArguments, nn.Module, ABC):
    """Image in [0, 1] to purified image in [0, 1]: stochastic by its keyed draws, differentiable end to end.

    Constructors raise ``ConfigError``, whose key is the argument, for values that they do not accept.

    Attributes:
        stochastic: whether two draws differ; if not, one purification is enough.
        differentiable: whether the gradient is informative; if not, it is zero.
        network_calls: in one purification.
        has_trail: whether it reports its states to a ``Trail``.
        PRESETS: named settings of the constructor's arguments.
        ENSEMBLE_MODES: how each preset joins its S purifications (Algorithm 3), if the preset decides it.
    """

    stochastic: bool = True
    differentiable: ClassVar[bool] = True
    network_calls: int = 0
    has_trail: ClassVar[bool] = False
    PRESETS: ClassVar[dict[str, dict]] = {}
    ENSEMBLE_MODES: ClassVar[dict[str, str]] = {}

    @property
    def preset(self) -> str | None:
        """The preset that is nearest to the constructor's arguments; None without presets."""
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}

        def differences(name: str) -> int:
            preset = {**defaults, **self.PRESETS[name]}
            return sum(value != preset[key] for key, value in self.arguments.items() if is_setting(value))

        return min(self.PRESETS, key=differences, default=None)

    @property
    def ensemble_mode(self) -> str:
        """How the preset joins S purifications (Algorithm 3); by default the mean of logits."""
        return self.ENSEMBLE_MODES.get(self.preset or "", "mean_logits")

    @property
    def smoothing_sigma(self) -> float | None:
        """Standard deviation sigma of a purifier that adds N(0, sigma^2) to images in [0, 1], and uses only the sum.

        None for others. Such a purifier's majority vote can be certified.
        """
        return None

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """What depends only on the image and not on the draw, computed once for all draws of an image.

        From x (B, C, H, W) in [0, 1], tensors with B rows, passed to ``purify`` after its draws. They carry no
        gradient; whatever needs one belongs in ``purify``.
        """
        return ()

    @abstractmethod
    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        """Purified images (N, C, H, W) in [0, 1], one for each row of x and of draws."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Purifies x (N, C, H, W) in [0, 1] with one draw per row."""
        with torch.no_grad():
            prepared = self.prepare(x)
        return self.purify(x, draws, *prepared)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Intermediate images of the purification of x (N, C, H, W), by heading, for pictures.

        They are (N, C, H, W) or (N, 1, H, W) in [0, 1], in the order of events; the last is ``purified``.
        """
        return {"purified": self(x, draws)}


def is_setting(value: object) -> bool:
    """Whether an argument can be written in a config, which a network cannot."""
    return not isinstance(value, nn.Module)


def to_signed(x: Tensor) -> Tensor:
    """[0, 1] to the [-1, 1] of denoisers."""
    return 2.0 * x - 1.0


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], clamped."""
    return ((x + 1.0) / 2.0).clamp(0.0, 1.0)


def input_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient at x of a function with one value per row; differentiable itself where gradients are enabled."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at).sum(), at, create_graph=differentiable)
    return gradient


class RecomputedSlope(torch.autograd.Function):
    """A gradient at x, whose backward pass builds its graph again for the product with the second derivatives.

    ``apply(x, kept, slope)``: kept is what the backward pass takes x from, ``slope(x, differentiable)`` the gradient,
    with its graph if asked for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, slope: Callable[[Tensor, bool], Tensor]) -> Tensor:
        ctx.kept, ctx.slope = kept, slope
        return slope(x, False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = ctx.kept.detach().requires_grad_()
        (product,) = torch.autograd.grad(ctx.slope(x, True), x, grads[0])
        return product, None, None
