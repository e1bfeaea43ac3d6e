"""Noise prediction (Ho et al. 2020)."""

from pathlib import Path
from typing import ClassVar, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hetpure.models.denoisers import LINEAR_VP, DiffusersDenoiser
from hetpure.models.diffusers_folder import NullClassDenoiser, save_diffusers
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.uniform import UniformPurifier
from hetpure.schedule import CLEAN, Schedule
from hetpure.training.config import TimestepsConfig
from hetpure.training.objectives.base import Batch, Objective, null_class, predict, scaled

NULL_SHARE = 0.1
"""Of the images whose class a class-conditional network is not told (Ho & Salimans 2022)."""


class NoisePredictor(Objective):
    """An objective whose network is a denoiser of the VP schedule: how it is saved, and how it purifies.

    Args:
        schedule: of the noise.
    """

    generates: ClassVar[bool] = True

    def __init__(self, schedule: Schedule = LINEAR_VP) -> None:
        self.schedule, self.labels = schedule, schedule.T
        # Index T is that of CLEAN, -1.
        self._alpha_bars = torch.tensor([schedule.alpha_bar(t) for t in (*range(schedule.T), CLEAN)])

    def purifier(self, unet: UNet2DModel, t: int, steps: int) -> Purifier:
        denoiser = (DiffusersDenoiser if null_class(unet) is None else NullClassDenoiser)(unet, self.schedule)
        return UniformPurifier(denoiser, t / self.schedule.T, steps, end="clean")

    def one_step(self, purifier: Purifier, image: Tensor, t: int, draws: Draws) -> Tensor:
        x0, denoiser = to_signed(image), cast(UniformPurifier, purifier).denoiser
        x_t = self.schedule.diffuse(x0, t, draws.normal_like(x0, "one step", t))
        return to_unit(self.schedule.ddim_step(x_t, denoiser(x_t, t), t, CLEAN))

    def save(self, unet: UNet2DModel, folder: str | Path) -> None:
        save_diffusers(unet, self.schedule, folder)

    def alpha_bars(self, t: Tensor) -> Tensor:
        """The abar of timesteps t (B,), which may be ``CLEAN``, as (B, 1, 1, 1)."""
        return self._alpha_bars.to(t.device)[t].view(-1, 1, 1, 1)

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x(t) with a timestep per image (``Schedule.diffuse`` takes one for all)."""
        abar = self.alpha_bars(t)
        return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


class NoiseObjective(NoisePredictor):
    """The mean squared error between the noise in x(t) and its prediction.

    A network with classes is told those of the images, and for ``NULL_SHARE`` of them the null class.

    Args:
        schedule: of the noise.
        timesteps: which are trained more than others.
    """

    takes_classes: ClassVar[bool] = True

    def __init__(self, schedule: Schedule = LINEAR_VP, timesteps: TimestepsConfig | None = None) -> None:
        super().__init__(schedule)
        self.timesteps = timesteps or TimestepsConfig()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        x0 = scaled(batch["image"])
        t, noise = self.draw_timesteps(len(x0), x0.device), torch.randn_like(x0)
        classes, null = None, null_class(network)
        if null is not None:
            classes = torch.where(torch.rand(len(x0), device=x0.device) < NULL_SHARE, null, batch["label"])
        return mse_loss(predict(network, self.diffuse(x0, t, noise), t, classes), noise)

    def errors(self, network: nn.Module, batch: Batch, t: Tensor, draws: Draws, step: int) -> Tensor:
        x0 = scaled(batch["image"])
        noise = draws.normal_like(x0, "noise", step)
        classes = None if null_class(network) is None else batch["label"]
        predicted = predict(network, self.diffuse(x0, t, noise), t, classes)
        return mse_loss(predicted, noise, reduction="none").flatten(1).mean(1)

    def draw_timesteps(self, count: int, device: torch.device | None = None) -> Tensor:
        """Timesteps (count,) from torch's generator; see ``TimestepsConfig``."""
        T, focus, share = self.schedule.T, self.timesteps.focus, self.timesteps.share
        uniform = torch.rand(count, device=device)
        if share:
            below = torch.rand(count, device=device) < share
            uniform = torch.where(below, uniform * focus, uniform)
        return (uniform * T).long().clamp_(max=T - 1)
