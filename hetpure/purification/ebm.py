"""Long-run Langevin dynamics of an energy-based model (Hill et al. 2021), whose network the user supplies."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from hetpure.errors import ConfigError, require
from hetpure.noise import Draws
from hetpure.purification.base import RecomputedSlope, to_signed, to_unit
from hetpure.purification.network import NetworkPurifier


class EnergyPurifier(NetworkPurifier):
    """``langevin_steps`` times x <- x - step_size grad U(x) + noise z, z standard normal, on [-1, 1].

    Only the result is clamped. The paper has tau^2 / 2 before the gradient; the released energies include that factor,
    so their step size is 1, and their noise tau = 0.01. The gradient is exact, with the energy's second derivatives.
    Each step is recomputed in the backward pass, so memory is that of one step plus one image for each step.

    Args:
        network: images (N, C, H, W) on [-1, 1] to N energies of any shape; twice differentiable.
        langevin_steps: number of steps (released: 1500).
        step_size: factor of the gradient.
        noise: standard deviation of each step's noise, for images on [-1, 1].
    """

    NETWORK: ClassVar[str] = "an energy-based model: images on [-1, 1] to energies"

    def __init__(
        self, network: nn.Module, langevin_steps: int = 1500, step_size: float = 1.0, noise: float = 0.01
    ) -> None:
        super().__init__(network)
        require(langevin_steps >= 1, "langevin_steps", langevin_steps, "1 or more")
        require(0.0 < step_size < math.inf, "step_size", step_size, "above 0, finite")
        require(0.0 <= noise < math.inf, "noise", noise, "0 or more, finite")
        self.langevin_steps = self.network_calls = langevin_steps
        self.step_size, self.noise = step_size, noise

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return to_unit(self._chain(to_signed(x), draws, self.langevin_steps))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        half = self.langevin_steps // 2
        return {f"after {half} steps": to_unit(self._chain(to_signed(x), draws, half)), **super().views(x, draws)}

    def try_network(self, x: Tensor) -> None:
        self.slope(to_signed(x))

    def slope(self, x: Tensor, differentiable: bool = False) -> Tensor:
        """Gradient of U at images x (N, C, H, W) on [-1, 1]; a row is all NaN if any of its values is not finite.

        ``differentiable`` keeps the graph, for second derivatives.
        """
        with torch.enable_grad():
            x = x if differentiable else x.detach().requires_grad_()
            energy = self.network(x)
            if not isinstance(energy, Tensor) or energy.numel() != len(x):
                actual = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
                problem = f"the network returns {actual} for {len(x)} rows, not one energy for each"
                raise ConfigError("network.name", problem)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
            # Clamping the result would turn an infinite value into a valid one.
            finite = slope.isfinite().flatten(1).all(dim=1)
            return torch.where(finite.view(-1, 1, 1, 1), slope, torch.nan)

    def _chain(self, x: Tensor, draws: Draws, steps: int) -> Tensor:
        # The images are kept in one block; scattered between activations they would fragment the memory.
        differentiated = torch.is_grad_enabled() and x.requires_grad
        kept = x.new_empty((steps, *x.shape)) if differentiated else None
        for step in range(steps):
            slope = (
                self.slope(x) if kept is None else RecomputedSlope.apply(x, kept[step].copy_(x.detach()), self.slope)
            )
            assert isinstance(slope, Tensor)
            x = x - self.step_size * slope + self.noise * draws.normal_like(x, "step", step)
        return x
