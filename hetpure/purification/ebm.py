"""Long-run Langevin dynamics of an energy-based model (Hill et al. 2021), whose network the user brings."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetpure.defense.finite import finite_rows
from hetpure.noise import Draws
from hetpure.purification.base import to_signed, to_unit
from hetpure.purification.network import NetworkPurifier


class EnergyPurifier(NetworkPurifier):
    """``steps`` times x <- x - step_size grad U(x) + noise z, z standard normal, on [-1, 1], clamped at the end alone.

    The paper's eq. for X_(k+1) has tau^2 / 2 before the gradient; the released energies hold that factor, so their
    step size is 1, and their noise tau = 0.01.

    Differentiable exactly, with the energy's second derivatives. Each step is computed again in the backward pass, so
    memory is that of one step plus an image for each.

    Args:
        network: images (N, C, H, W) on [-1, 1] to one energy a row, (N,) or any shape of N numbers; twice
            differentiable.
        steps: Langevin steps (released: 1500).
        step_size: before the gradient.
        noise: standard deviation of each step's noise, on [-1, 1] images.

    Raises:
        ValueError: names the argument that cannot be.
    """

    NETWORK: ClassVar[str] = "an energy-based model: images on [-1, 1] to energies"

    def __init__(self, network: nn.Module, steps: int = 1500, step_size: float = 1.0, noise: float = 0.01) -> None:
        super().__init__(network)
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        if not 0.0 < step_size < float("inf"):
            raise ValueError(f"step_size = {step_size} must be above 0 and finite")
        if not 0.0 <= noise < float("inf"):
            raise ValueError(f"noise = {noise} must be at least 0 and finite")
        self.steps, self.step_size, self.noise = steps, step_size, noise

    @property
    def network_calls(self) -> int:
        """See ``Purifier``; each with its gradient."""
        return self.steps

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return to_unit(self._chain(to_signed(x), draws, self.steps))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the chain at half its length."""
        half = self.steps // 2
        return {f"after {half} steps": to_unit(self._chain(to_signed(x), draws, half)), **super().views(x, draws)}

    def try_network(self, x: Tensor) -> None:
        self.slope(to_signed(x))

    def slope(self, x: Tensor, differentiable: bool = False) -> Tensor:
        """Gradient of U at images x (N, C, H, W) on [-1, 1]; a row that is not finite somewhere is NaN throughout.

        Args:
            x: the images.
            differentiable: keep the graph, for second derivatives.
        """
        with torch.enable_grad():
            x = x if differentiable else x.detach().requires_grad_()
            energy = self.network(x)
            if not isinstance(energy, Tensor) or energy.numel() != len(x):
                found = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
                raise ValueError(f"network.name: its network gives {found} for {len(x)} rows, not an energy for each")
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
            # The last clamp would turn an infinite value into a valid one.
            return torch.where(finite_rows(slope).view(-1, 1, 1, 1), slope, torch.nan)

    def _chain(self, x: Tensor, draws: Draws, steps: int) -> Tensor:
        # The images lie in one block: between the activations they would keep freed memory from being used again.
        needed = torch.is_grad_enabled() and x.requires_grad
        kept = x.new_empty((steps, *x.shape)) if needed else None
        for step in range(steps):
            slope = self.slope(x) if kept is None else _Slope.apply(x, kept[step].copy_(x.detach()), self)
            assert isinstance(slope, Tensor)
            x = x - self.step_size * slope + self.noise * draws.normal_like(x, "step", step)
        return x


class _Slope(torch.autograd.Function):
    """grad U, whose backward pass makes its graph anew: the product with U's Hessian."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, owner: EnergyPurifier) -> Tensor:
        ctx.kept, ctx.owner = kept, owner
        return owner.slope(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = ctx.kept.detach().requires_grad_()
        (product,) = torch.autograd.grad(ctx.owner.slope(x, differentiable=True), x, grads[0])
        return product, None, None
