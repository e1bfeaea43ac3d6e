"""Training of a diffusers UNet by one of several objectives, with an EMA of its weights."""

import inspect
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric
from torchvision.utils import make_grid, save_image

from hetpure.errors import ConfigError, require
from hetpure.models.checkpoints import existing_path, one_line, reading
from hetpure.models.denoisers import LINEAR_VP, DiffusersDenoiser
from hetpure.models.diffusers_folder import load_diffusers
from hetpure.noise import Draws
from hetpure.schedule import CLEAN, Schedule
from hetpure.training.config import OptimizerConfig, SamplesConfig, TimestepsConfig
from hetpure.training.module import TrainingModule
from hetpure.training.objectives.base import Objective, null_class, predict
from hetpure.training.objectives.noise import NoiseObjective


class DiffusionTrainer(TrainingModule):
    """Trains a denoiser, or what else an objective makes of a UNet.

    Every draw is keyed by (seed, step, rank), so a resumed run has the loss curve of an uninterrupted one.

    Args:
        unet: constructor arguments of diffusers' ``UNet2DModel``.
        optimizer: its name, learning rate and schedule.
        objective: the loss, and how the network is saved; by default noise prediction.
        timesteps: which are trained more than others, and by which ranges the validation loss is shown.
        ema_decay: decay of the weights' average, reached after a ramp.
        samples: the sample grid.
        sample_folder: where grids are written as PNG files; None for nowhere.
        schedule: noise schedule of the denoiser.
        start: a network of these arguments, whose weights are the first; None for random ones.
        seed: of all draws.

    Raises:
        ConfigError: for arguments that the network does not take, or values that do not fit the schedule.
    """

    def __init__(
        self,
        unet: Mapping[str, Any],
        optimizer: OptimizerConfig,
        *,
        objective: Objective | None = None,
        timesteps: TimestepsConfig | None = None,
        ema_decay: float = 0.9999,
        samples: SamplesConfig | None = None,
        sample_folder: Path | None = None,
        schedule: Schedule = LINEAR_VP,
        start: UNet2DModel | None = None,
        seed: int = 0,
    ):
        super().__init__(optimizer, seed)
        self.timesteps, self.samples = timesteps or TimestepsConfig(), samples or SamplesConfig()
        T, levels = schedule.T, list(self.timesteps.levels)
        rising = levels == sorted(set(levels)) and len(levels) >= 2 and levels[0] >= 0 and levels[-1] <= T
        require(rising, "timesteps.levels", levels, f"rising bounds within 0..{T}")
        divides = self.samples.steps >= 1 and T % self.samples.steps == 0
        require(not self.samples.count or divides, "samples.steps", self.samples.steps, f"divisors of {T}")
        self.noise_schedule, self.sample_folder = schedule, sample_folder
        self.objective = objective or NoiseObjective(schedule, self.timesteps)
        self.denoiser = build_unet(unet)
        if null_class(self.denoiser) is not None and not self.objective.takes_classes:
            embeds = unet.get("num_class_embeds")
            raise ConfigError("denoiser.num_class_embeds", found=embeds, accepted="null with this objective")
        if start is not None:
            load_start(self.denoiser, start)
        self.ema = averaged(self.denoiser, ema_decay)
        bounds = sorted({min(level, self.objective.labels) for level in levels})
        self.levels = list(pairwise(bounds))
        self.level_losses = nn.ModuleList(MeanMetric() for _ in self.levels)

    @property
    def trained(self) -> nn.Module:
        return cast(nn.Module, self.denoiser)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """Predicted noise of x(t) (B, C, H, W), from the averaged weights; t and classes (B,) int64."""
        return predict(self.ema.module, x, t, classes)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seed_batch()
        loss = self.objective.loss(cast(nn.Module, self.denoiser), batch)
        self.log_step(loss)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step; the average follows at once, so that no state is ever saved between the two."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.denoiser)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss of the averaged weights by noise level; each image has the same noise every time."""
        draws = Draws(self.seed, "validation", batch["index"], torch.zeros_like(batch["index"]))
        for level, (low, high) in enumerate(self.levels):
            t = low + (draws.uniform("timestep", level, ()) * (high - low)).long().clamp_(max=high - low - 1)
            errors = self.objective.errors(self.ema.module, batch, t, draws, level)
            metric = cast(MeanMetric, self.level_losses[level])
            metric.update(errors)
            self.log(f"val/loss_t{low:03d}-{high:03d}", metric, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        count, folder = self.samples.count, self.sample_folder
        if not count or not self.objective.generates or not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        grid = make_grid(self.sample(count), nrow=max(1, round(count**0.5)), padding=1)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_image(grid, folder / f"step-{self.trainer.global_step:07d}.png")
        for logger in self.trainer.loggers:
            if hasattr(logger, "log_image"):
                cast(Any, logger).log_image("samples", [grid.cpu()], step=self.trainer.global_step)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """New images (count, C, H, W) in [0, 1], by DDIM from the averaged weights; the same noise every time.

        Of a network with classes, they are of one after another.
        """
        config: Any = self.denoiser.config
        size = config.sample_size
        index = torch.arange(count, device=self.device)
        draws = Draws(self.seed, "samples", index, torch.zeros_like(index))
        x = draws.normal("start", 0, (config.in_channels, *((size, size) if isinstance(size, int) else size)))
        stride = self.noise_schedule.T // self.samples.steps
        grid = [*range(self.noise_schedule.T - stride, -1, -stride), CLEAN]
        classes = None if (null := null_class(self.denoiser)) is None else index % null
        for t, s in pairwise(grid):
            x = self.noise_schedule.ddim_step(x, self(x, torch.full_like(index, t), classes), t, s)
        return (x / 2 + 0.5).clamp(0, 1)

    def export(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the averaged weights, in ``dtype``, as a diffusers folder that says what they predict."""
        unet = cast(UNet2DModel, self.ema.module)
        copy = UNet2DModel(**dict(unet.config))
        copy.load_state_dict(unet.state_dict())
        nn.Module.to(cast(nn.Module, copy), dtype)
        self.objective.save(copy, folder)


def build_unet(arguments: Mapping[str, Any]) -> UNet2DModel:
    """A ``UNet2DModel`` in channels-last layout, which is faster on CPUs and GPUs alike.

    Raises:
        ConfigError: for arguments that it does not take.
    """
    unknown = sorted(set(arguments) - set(inspect.signature(UNet2DModel.__init__).parameters))
    if unknown:
        raise ConfigError(f"denoiser.{unknown[0]}", "diffusers' UNet2DModel has no such argument")
    try:
        unet: Any = UNet2DModel(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError("denoiser", f"refused by diffusers' UNet2DModel: {one_line(error)}") from None
    return unet.to(memory_format=torch.channels_last)


def unet_arguments(
    given: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int | None = None
) -> dict[str, Any]:
    """Arguments of ``UNet2DModel`` with size and channels taken from the data where they are not given.

    Raises:
        ConfigError: where they contradict the data, or the side cannot be halved as often as the network does.
    """
    if (embeds := given.get("num_class_embeds")) is not None and num_classes is not None:
        accepted = f"null, or {num_classes + 1}: the data's classes and one that stands for any"
        require(embeds == num_classes + 1, "denoiser.num_class_embeds", embeds, accepted)
    channels, height, width = image_shape
    size = height if height == width else [height, width]
    of_data = {"sample_size": size, "in_channels": channels, "out_channels": channels}
    arguments = {**of_data, **given}
    for key, value in of_data.items():
        require(arguments[key] == value, f"denoiser.{key}", arguments[key], f"{value}, as the data's images have it")
    factor = 2 ** (len(arguments.get("block_out_channels", (224, 448, 672, 896))) - 1)
    if height % factor or width % factor:
        raise ConfigError(
            "denoiser.block_out_channels",
            f"halves the image's side to 1/{factor}, but the data's images are {height}x{width}",
        )
    return arguments


def open_start(path: str) -> UNet2DModel:
    """The network of a denoiser's folder, to go on from.

    Raises:
        ConfigError: where there is none, or it predicts something else than the noise of the linear VP schedule.
    """
    folder = str(existing_path(path, "init_from"))
    with reading(path, "init_from", "diffusers UNet2DModel"):
        denoiser = load_diffusers(folder)
    plain = type(denoiser) is DiffusersDenoiser
    require(plain, "init_from", path, "a network that predicts the noise of the linear VP schedule")
    return denoiser.unet


def network_arguments(unet: UNet2DModel) -> dict[str, Any]:
    """The constructor arguments of a network, but for those that follow from the data (``unet_arguments``)."""
    of_data = ("sample_size", "in_channels", "out_channels")
    accepted = inspect.signature(UNet2DModel.__init__).parameters
    return {key: value for key, value in dict(unet.config).items() if key in accepted and key not in of_data}


def load_start(unet: UNet2DModel, start: UNet2DModel) -> None:
    """Copies the weights; ConfigError where the networks differ."""
    try:
        unet.load_state_dict(start.state_dict())
    except RuntimeError as error:
        problem = "its weights do not fit the section denoiser, or the data's channels"
        raise ConfigError("init_from", f"{problem}: {one_line(error, 160)}") from None


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of the module that follows its weights; call ``update_parameters`` after each step.

    The decay of update n is min(``decay``, (1 + n) / (10 + n)): the ramp lets a short run forget its first weights, and
    leaves a long one's decay as it is.
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        ramp = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, ramp))(averaged, current, count)

    return AveragedModel(module, multi_avg_fn=update).requires_grad_(False).eval()
