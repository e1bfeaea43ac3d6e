"""Consistency distillation of a denoiser on the VP schedule (Song et al. 2023)."""

from typing import ClassVar

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from hetpure.errors import ConfigError, require
from hetpure.models.checkpoints import existing_path, reading
from hetpure.models.denoisers import LINEAR_VP, DiffusersDenoiser
from hetpure.models.diffusers_folder import load_diffusers
from hetpure.noise import Draws
from hetpure.purification.base import Purifier
from hetpure.purification.consistency import ConsistencyPurifier
from hetpure.schedule import CLEAN, Schedule
from hetpure.training.objectives.base import Batch, predict, scaled
from hetpure.training.objectives.noise import NoisePredictor

_HUBER = 0.00054
"""Of the pseudo-Huber distance, times the root of the number of values (Song & Dhariwal 2024)."""


class ConsistencyObjective(NoisePredictor):
    """The distance between f(x(t), t) and f(x(s), s), where x(s) is a DDIM step of the teacher's from x(t).

    f(x(t), t) = (x(t) - sqrt(1 - abar) eps(x(t), t)) / sqrt(abar), with eps the network; without noise f(x, CLEAN) = x,
    whatever the network is. So the network is saved as a denoiser of the VP schedule whose one-step prediction is f;
    ``init_from`` the teacher starts at the teacher's. t is uniform on 0..``t_max`` T - 1, and s is ``stride`` below it,
    or ``CLEAN``. The target f(x(s), s) has the same weights, without a gradient, and the distance is sqrt(|a - b|^2 +
    c^2) - c, both as in Song & Dhariwal 2024.

    Args:
        teacher: folder of a denoiser, a diffusers UNet2DModel.
        t_max: largest noise level, fraction of T; above it the network is not trained.
        stride: timesteps of the teacher's step.
        schedule: of the noise.
    """

    generates: ClassVar[bool] = False

    def __init__(self, teacher: str, t_max: float = 0.4, stride: int = 25, schedule: Schedule = LINEAR_VP) -> None:
        super().__init__(schedule)
        require(0.0 < t_max <= 1.0, "t_max", t_max, "above 0, at most 1")
        self.labels, self.stride = round(t_max * schedule.T), stride
        require(1 <= stride <= self.labels, "stride", stride, f"1 to {self.labels}, t_max in timesteps")
        with reading(teacher, "teacher", "diffusers UNet2DModel"):
            self.teacher = load_diffusers(str(existing_path(teacher, "teacher")))
        if type(self.teacher) is not DiffusersDenoiser:
            accepted = "a network that predicts the noise of the linear VP schedule"
            raise ConfigError("teacher", found=teacher, accepted=accepted)

    def purifier(self, unet: UNet2DModel, t: int, steps: int) -> Purifier:
        return ConsistencyPurifier(DiffusersDenoiser(unet, self.schedule), t / self.schedule.T)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        x0 = scaled(batch["image"])
        t, noise = torch.randint(self.labels, (len(x0),), device=x0.device), torch.randn_like(x0)
        c = _HUBER * x0[0].numel() ** 0.5
        return ((self._difference(network, x0, t, noise).square().flatten(1).sum(1) + c**2).sqrt() - c).mean()

    def errors(self, network: nn.Module, batch: Batch, t: Tensor, draws: Draws, step: int) -> Tensor:
        """The mean squared difference between f(x(t), t) and f(x(s), s) of each image (B,)."""
        x0 = scaled(batch["image"])
        noise = draws.normal_like(x0, "noise", step)
        return self._difference(network, x0, t, noise).square().flatten(1).mean(1)

    def predict_x0(self, network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """f(x(t), t) of x (B, C, H, W) at timesteps t (B,), which may be ``CLEAN``: x itself."""
        return self._x0(x, t, predict(network, x, t.clamp_min(0)))

    def _difference(self, network: nn.Module, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        x_t, s = self.diffuse(x0, t, noise), (t - self.stride).clamp_min(CLEAN)
        with torch.no_grad():
            # DDIM: the predicted image with less of the predicted noise.
            eps = predict(self.teacher.to(x0.device).unet, x_t, t)
            x_s = self.diffuse(self._x0(x_t, t, eps), s, eps)
            target = self.predict_x0(network, x_s, s)
        return self.predict_x0(network, x_t, t) - target

    def _x0(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        abar = self.alpha_bars(t)
        return (x - (1 - abar).sqrt() * eps) / abar.sqrt()
