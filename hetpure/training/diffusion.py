"""Noise-prediction training of a diffusers UNet (Ho et al. 2020), with an EMA of its weights."""

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchmetrics import MeanMetric
from torchvision.utils import make_grid, save_image

from hetpure.errors import ConfigError
from hetpure.noise import Draws
from hetpure.schedule import CLEAN, Schedule
from hetpure.training.ema import averaged
from hetpure.training.keyed import StepCounter, seed_step
from hetpure.training.optimizers import build_optimizer, check, with_schedule


class DiffusionTrainer(LightningModule):
    """Trains a denoiser: the mean squared error between the noise in x(t) and its prediction.

    Images come in [0, 1] and are scaled to [-1, 1] here. Every draw is keyed by (seed, step, rank), so a resumed run
    has the loss curve of an uninterrupted one.

    Args:
        unet: constructor arguments of diffusers' ``UNet2DModel``.
        schedule: noise schedule.
        optimizer: ``adam`` or ``adamw``.
        lr: learning rate after the warm-up.
        weight_decay: of the optimiser.
        lr_schedule: ``constant`` or ``cosine``.
        warmup_steps: of the learning rate.
        ema_decay: decay of the weights' average, reached after a ramp.
        focus: fraction of T below which purification works, in (0, 1].
        focus_share: share of the training timesteps drawn below ``focus``; the rest are uniform over all. 0 for plain
            uniform training.
        levels: bounds of the noise levels, in timesteps, by which the validation loss is shown.
        samples: images in the sample grid; 0 for none.
        sample_steps: DDIM steps of the grid.
        sample_folder: where grids are written as PNG files; None for nowhere.
        seed: of all draws.

    Raises:
        ConfigError: for arguments that the network does not take, or values out of range.
    """

    def __init__(
        self,
        unet: Mapping[str, Any],
        schedule: Schedule | None = None,
        *,
        optimizer: str = "adam",
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        lr_schedule: str = "constant",
        warmup_steps: int = 0,
        ema_decay: float = 0.9999,
        focus: float = 1.0,
        focus_share: float = 0.0,
        levels: Sequence[int] = (0, 50, 100, 200, 300, 500, 1000),
        samples: int = 16,
        sample_steps: int = 50,
        sample_folder: str | Path | None = None,
        seed: int = 0,
    ):
        super().__init__()
        check(optimizer, lr_schedule)
        self.noise_schedule = schedule or Schedule()
        T = self.noise_schedule.T
        _check("ema_decay", ema_decay, 0.0, 1.0)
        _check("timesteps.focus", focus, 1.0 / T, 1.0)
        _check("timesteps.share", focus_share, 0.0, 1.0)
        if list(levels) != sorted(set(levels)) or len(levels) < 2 or levels[0] < 0 or levels[-1] > T:
            raise ConfigError(f"timesteps.levels: found {list(levels)}, accepted are rising bounds within 0..{T}")
        if samples and (sample_steps < 1 or T % sample_steps):
            raise ConfigError(f"samples.steps: found {sample_steps}, accepted are divisors of {T}")
        self.denoiser = build_unet(unet)
        self.ema = averaged(self.denoiser, ema_decay)
        self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay
        self.lr_schedule, self.warmup_steps = lr_schedule, warmup_steps
        self.focus, self.focus_share, self.levels = focus, focus_share, list(levels)
        self.samples, self.sample_steps, self.sample_folder = samples, sample_steps, sample_folder
        self.seed = seed
        self._micro_batch = StepCounter()
        self.level_losses = nn.ModuleList(MeanMetric() for _ in self.levels[1:])
        self.alpha_bars: Tensor
        self.register_buffer(
            "alpha_bars", torch.tensor([self.noise_schedule.alpha_bar(t) for t in range(T)]), persistent=False
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predicted noise of x(t) (B, C, H, W), from the averaged weights; t (B,) int64."""
        return predict(self.ema.module, x, t)

    def draw_timesteps(self, count: int) -> Tensor:
        """Timesteps (count,) from torch's generator: a ``focus_share`` of them below focus * T, the rest uniform."""
        T = self.noise_schedule.T
        uniform = torch.rand(count, device=self.device)
        if self.focus_share:
            below = torch.rand(count, device=self.device) < self.focus_share
            uniform = torch.where(below, uniform * self.focus, uniform)
        return (uniform * T).long().clamp_(max=T - 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of the noise predicted in one batch."""
        step = self.trainer.global_step
        seed_step(self.seed, step, self._micro_batch(step), self.trainer.global_rank)
        x0 = scaled(batch["image"])
        t, noise = self.draw_timesteps(len(x0)), torch.randn_like(x0)
        loss = mse_loss(predict(self.denoiser, self._diffuse(x0, t, noise), t), noise)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step; the average follows at once, so that no state is ever saved between the two."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.denoiser)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss of the averaged weights by noise level; each image has the same noise every time."""
        x0 = scaled(batch["image"])
        draws = Draws(self.seed, "validation", batch["index"], torch.zeros_like(batch["index"]))
        for level, (low, high) in enumerate(pairwise(self.levels)):
            t = low + (draws.uniform("timestep", level, ()) * (high - low)).long().clamp_(max=high - low - 1)
            noise = draws.normal_like(x0, "noise", level)
            errors = mse_loss(self(self._diffuse(x0, t, noise), t), noise, reduction="none").flatten(1).mean(1)
            metric = cast(MeanMetric, self.level_losses[level])
            metric.update(errors)
            self.log(f"val/loss_t{low:03d}-{high:03d}", metric, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        """Draws the sample grid."""
        if not self.samples or not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        grid = make_grid(self.sample(self.samples), nrow=max(1, round(self.samples**0.5)), padding=1)
        if self.sample_folder is not None:
            Path(self.sample_folder).mkdir(parents=True, exist_ok=True)
            save_image(grid, Path(self.sample_folder) / f"step-{self.trainer.global_step:07d}.png")
        for logger in self.trainer.loggers:
            if hasattr(logger, "log_image"):
                cast(Any, logger).log_image("samples", [grid.cpu()], step=self.trainer.global_step)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """New images (count, C, H, W) in [0, 1], by DDIM from the averaged weights; the same noise every time."""
        config = cast(Any, self.denoiser.config)
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        index = torch.arange(count, device=self.device)
        draws = Draws(self.seed, "samples", index, torch.zeros_like(index))
        x = draws.normal("start", 0, (config.in_channels, height, width))
        stride = self.noise_schedule.T // self.sample_steps
        grid = [*range(self.noise_schedule.T - stride, -1, -stride), CLEAN]
        for t, s in pairwise(grid):
            x = self.noise_schedule.ddim_step(x, self(x, torch.full_like(index, t)), t, s)
        return (x / 2 + 0.5).clamp(0, 1)

    def configure_optimizers(self) -> Any:
        """The optimiser over the denoiser, with its schedule."""
        optimizer = build_optimizer(self.denoiser.parameters(), self.optimizer, self.lr, self.weight_decay)
        return with_schedule(optimizer, self.lr_schedule, self.warmup_steps, self.trainer.max_steps)

    def export(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the averaged weights as a diffusers folder, with a config of the schedule beside them.

        Args:
            folder: for ``UNet2DModel.from_pretrained``.
            dtype: of the weights on disk.
        """
        unet = cast(UNet2DModel, self.ema.module)
        copy = UNet2DModel(**dict(unet.config))
        copy.load_state_dict(unet.state_dict())
        nn.Module.to(cast(nn.Module, copy), dtype)
        copy.save_pretrained(folder)
        schedule = self.noise_schedule
        DDPMScheduler(schedule.T, schedule.beta_start, schedule.beta_end, "linear").save_pretrained(folder)

    def _diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x(t) with a timestep per image (``Schedule.diffuse`` takes one for all)."""
        abar = self.alpha_bars[t].view(-1, 1, 1, 1)
        return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


def build_unet(arguments: Mapping[str, Any]) -> UNet2DModel:
    """A ``UNet2DModel`` in channels-last layout, which is faster on CPUs and GPUs alike.

    Raises:
        ConfigError: for arguments that it does not take.
    """
    unknown = sorted(set(arguments) - set(inspect.signature(UNet2DModel.__init__).parameters))
    if unknown:
        raise ConfigError(f"denoiser.{unknown[0]}: diffusers' UNet2DModel has no such argument")
    try:
        unet = UNet2DModel(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"denoiser: diffusers' UNet2DModel: {' '.join(str(error).split())}") from None
    return cast(Any, unet).to(memory_format=torch.channels_last)


def predict(unet: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """The noise predicted in x (B, C, H, W) at t (B,)."""
    return unet(x.contiguous(memory_format=torch.channels_last), t, return_dict=False)[0].float()


def scaled(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1


def _check(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key}: found {value}, accepted is {low:g}..{high:g}")
