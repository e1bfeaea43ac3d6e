"""Denoisers: networks that predict the noise in an image on the VP schedule, whatever checkpoint they come from."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download
from torch import Tensor, nn

from hetpure.config import resolve_path
from hetpure.errors import AbsentError, ConfigError
from hetpure.models.checkpoints import check_there
from hetpure.models.ddpm import load_ddpm
from hetpure.models.ddpmpp import Conditioning, DDPMpp
from hetpure.models.edm import load_edm
from hetpure.models.guided_diffusion import load_guided_diffusion
from hetpure.models.score_sde import load_score_sde
from hetpure.schedule import Schedule


class Denoiser(nn.Module, ABC):
    """Predicts the noise in x(t).

    Attributes:
        channels: image channels C.
        image_size: side of the square images the network was made for; None where any multiple of ``multiple`` will do.
        multiple: the side must be a multiple of this.
        schedule: of the noise levels that the timesteps of ``forward`` stand for.
    """

    channels: int
    image_size: int | None = None
    multiple: int = 1
    schedule: Schedule = Schedule()

    @abstractmethod
    def forward(self, x: Tensor, t: int) -> Tensor:
        """The noise in x(t).

        Args:
            x: (B, C, H, W), the diffused image, on images scaled to [-1, 1].
            t: timestep 0..T-1 of the VP schedule, the same for the batch.

        Returns:
            (B, C, H, W), contiguous.
        """

    def check_image_shape(self, shape: tuple[int, int, int]) -> None:
        """Raises ConfigError where images of (C, H, W) cannot go through this denoiser."""
        channels, height, width = shape
        sizes = (
            f"{self.image_size}x{self.image_size}"
            if self.image_size
            else f"sides that are multiples of {self.multiple}"
        )
        fits = (height, width) == (self.image_size, self.image_size) if self.image_size else True
        if channels != self.channels or not fits or height % self.multiple or width % self.multiple:
            raise ConfigError(
                f"denoiser: takes {self.channels} channels and {sizes}, the data's images are "
                f"{channels}x{height}x{width}; set data.image_size or choose another denoiser.path"
            )
        try:
            with torch.no_grad():
                out = self(torch.zeros(1, *shape), 0)
        except Exception as error:  # whatever a foreign network raises, it cannot be used
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"denoiser: cannot predict the noise of one image: {reason}") from None
        if out.shape != (1, *shape) or not bool(out.isfinite().all()):
            raise ConfigError(
                f"denoiser: predicts {tuple(out.shape)} for one {tuple(shape)} image, or not finite values"
            )


class DiffusersDenoiser(Denoiser):
    """diffusers' ``UNet2DModel`` with noise ("epsilon") prediction; of a learned variance only the mean is used.

    Args:
        unet: the network.
    """

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        # Channels-last convolutions are faster on CPUs and GPUs alike; everything outside stays contiguous.
        self.unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        config: Any = unet.config
        self.channels = config.in_channels
        size = config.sample_size
        self.image_size = size if isinstance(size, int) or size is None else size[0]
        self.multiple = 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def from_pretrained(cls, path: str) -> "DiffusersDenoiser":
        """Loads a diffusers folder (of a UNet2DModel, or of a pipeline with one in ``unet/``) or a hub id.

        A checkpoint without a scheduler's config says nothing of its schedule; it is taken for the linear VP one.

        Raises:
            ConfigError: where it cannot be found or read, works on latents, or its scheduler is not the linear VP
                schedule with noise prediction.
        """
        found = resolve_path(path)
        source = str(found) if found.exists() else path
        if not found.exists() and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
            raise AbsentError(
                f"denoiser.path: {path}: no such folder; accepted is a diffusers folder or a hub id OWNER/NAME"
            )
        folder = found if found.exists() else _hub_configs(path)
        subfolder = "unet" if (folder / "unet" / "config.json").is_file() else None
        if not (folder / (subfolder or "") / "config.json").is_file():
            raise ConfigError(f"denoiser.path: {path}: holds no config.json; accepted is a folder that diffusers saved")
        _check_pipeline(folder)
        _check_scheduler(folder)
        try:
            unet = UNet2DModel.from_pretrained(
                source, subfolder=subfolder, torch_dtype=torch.float32, low_cpu_mem_usage=False
            )
        except Exception as error:  # diffusers and the hub raise dozens of types; each means: not loadable
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"denoiser.path: {path}: cannot be loaded as a diffusers UNet2DModel: {reason}") from None
        return cls(unet)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, t: int) -> Tensor:
        timesteps = torch.full((len(x),), t, device=x.device, dtype=torch.long)
        out: Tensor = self.unet(x, timesteps, return_dict=False)[0]
        return out[:, : self.channels].contiguous()


class ContinuousDenoiser(Denoiser):
    """A DDPM++ network that was trained on continuous noise levels, asked at those of the schedule's timesteps.

    Args:
        network: the network.
        conditioning: how it predicts the noise at each timestep.
    """

    def __init__(self, network: DDPMpp, conditioning: Sequence[Conditioning]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.conditioning = tuple(conditioning)
        self.channels, self.image_size = network.geometry.image_channels, network.geometry.image_size
        self.multiple = network.multiple

    def forward(self, x: Tensor, t: int) -> Tensor:
        scale, label, skip, out = self.conditioning[t]
        # A tensor: torch.compile would compile anew for every number.
        noise = self.network(x if scale == 1.0 else scale * x, torch.full((len(x),), label, device=x.device))
        if skip or out != 1.0:
            noise = skip * x + out * noise
        return noise.contiguous()


class DenoiserWrapper(Denoiser):
    """Base class of a denoiser around another: the same images, the same schedule.

    Args:
        denoiser: the denoiser to wrap.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.channels, self.image_size, self.multiple = denoiser.channels, denoiser.image_size, denoiser.multiple
        self.schedule = denoiser.schedule


class Recomputed(DenoiserWrapper):
    """The same denoiser, keeping no activations for the backward pass: each call is run again there.

    Memory of a gradient through many steps is then that of one step plus one image per step. The images are kept apart
    from the heap that activations come and go in: between them, they would keep freed memory from being used again
    (measured with 100 steps of a small UNet: 1.3 GB where 60 MB were alive).

    Args:
        denoiser: the denoiser to wrap.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self._shelf: Tensor | None = None
        self._used = 0

    def forward(self, x: Tensor, t: int) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.denoiser(x, t)
        out = _Recompute.apply(x, t, self)
        assert isinstance(out, Tensor)
        return out

    def keep(self, x: Tensor) -> Tensor:
        """A copy of x on a shelf of many; a shelf goes when the last copy on it is not needed any more."""
        shelf = self._shelf
        if (
            shelf is None
            or self._used == len(shelf)
            or (shelf.shape[1:], shelf.dtype, shelf.device)
            != (
                x.shape,
                x.dtype,
                x.device,
            )
        ):
            count = -(-SHELF_BYTES // (x.numel() * x.element_size()))
            shelf, self._used = x.new_empty((count, *x.shape)), 0
        self._shelf, self._used = shelf, self._used + 1
        return shelf[self._used - 1].copy_(x.detach())


SHELF_BYTES = 33 * 2**20
"""More than the 32 MiB up to which the C library may take memory from the heap; pages count once they are written."""


class _Recompute(torch.autograd.Function):
    """A network call whose backward pass makes its graph anew. It draws nothing at random, so it is the same call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: int, owner: Recomputed) -> Tensor:
        ctx.x, ctx.t, ctx.denoiser = owner.keep(x), t, owner.denoiser
        return owner.denoiser(x, t)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.denoiser(x, ctx.t)
        (gradient,) = torch.autograd.grad(out, x, grads[0])
        return gradient, None, None


def innermost(module: nn.Module) -> list[Denoiser]:
    """The denoisers inside a module that wrap no other: the networks themselves."""
    found = [m for m in module.modules() if isinstance(m, Denoiser)]
    return [m for m in found if not any(isinstance(child, Denoiser) for child in m.modules() if child is not m)]


FORMATS: dict[str, Callable[[str], Denoiser]] = {
    "diffusers": DiffusersDenoiser.from_pretrained,
    "ddpm": lambda path: DiffusersDenoiser(load_ddpm(path)),
    "edm": lambda path: ContinuousDenoiser(*load_edm(path)),
    "guided_diffusion": lambda path: DiffusersDenoiser(load_guided_diffusion(path)),
    "score_sde": lambda path: ContinuousDenoiser(*load_score_sde(path)),
    "score_sde_matched": lambda path: ContinuousDenoiser(*load_score_sde(path, matched=True)),
}
"""Checkpoint formats by name: each loads a path (or hub id)."""


def build_denoiser(path: str, format: str = "diffusers", source: str | None = None) -> Denoiser:
    """Loads a denoiser.

    Args:
        path: file, folder or hub id of the checkpoint.
        format: one of ``FORMATS``.
        source: where the checkpoint can be had, for one that must lie here (no hub id); the message says it where it
            is missing.

    Raises:
        ConfigError: for an unknown format, or where the checkpoint cannot be loaded.
    """
    if format not in FORMATS:
        raise ConfigError(f"denoiser.format: {format!r} is unknown; accepted are {', '.join(FORMATS)}")
    if source is not None:
        check_there(path, "denoiser.path", source)
    return FORMATS[format](path)


def _hub_configs(identifier: str) -> Path:
    """A folder with a hub checkpoint's configs alone: what it is, before its weights are fetched."""
    names = ("config.json", "model_index.json", "scheduler_config.json")
    try:
        patterns = [f"{folder}{name}" for folder in ("", "unet/", "scheduler/") for name in names]
        return Path(snapshot_download(identifier, allow_patterns=patterns))
    except Exception as error:  # the hub raises dozens of types; each means: not there, or not to be had
        reason = " ".join(str(error).split())[:300]
        raise AbsentError(f"denoiser.path: {identifier}: cannot be had from the hub: {reason}") from None


def _check_pipeline(folder: Path) -> None:
    """A latent diffusion's UNet has three channels too: refuse it."""
    file = folder / "model_index.json"
    if file.is_file() and (latent := {"vae", "vqvae"} & _read_json(file).keys()):
        raise ConfigError(f"denoiser.path: {file}: has a {latent.pop()}, accepted are denoisers of images, not latents")


def _check_scheduler(folder: Path) -> None:
    """A checkpoint of another schedule would denoise, but wrongly: refuse it.

    What a config leaves out has the default of the scheduler's class, as in diffusers.
    """
    files = [
        f for f in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json") if f.is_file()
    ]
    if not files:
        return
    given = _read_json(files[0])
    name = str(given.get("_class_name", "DDPMScheduler"))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise ConfigError(f"denoiser.path: {files[0]}: _class_name is {name!r}, which is no scheduler of diffusers")
    defaults = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items()}
    found = {**defaults, **given}
    ours = Schedule()
    required = {
        "beta_schedule": "linear",
        "beta_start": ours.beta_start,
        "beta_end": ours.beta_end,
        "num_train_timesteps": ours.T,
    }
    accepted = {
        **required,
        "prediction_type": "epsilon",
        "trained_betas": None,
        "rescale_betas_zero_snr": False,
        "use_flow_sigmas": False,
    }
    for key, value in accepted.items():
        if key not in found and key in required:
            raise ConfigError(f"denoiser.path: {files[0]}: {name} has no {key}, accepted is {value!r}")
        if found.get(key, value) != value:
            raise ConfigError(f"denoiser.path: {files[0]}: {key} is {found[key]!r}, accepted is {value!r}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"denoiser.path: {file}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"denoiser.path: {file}: cannot be read as JSON: holds no keys")
    return found
