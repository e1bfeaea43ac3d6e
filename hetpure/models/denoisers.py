"""Denoisers: networks that predict the noise in an image on the VP schedule, from checkpoints of several formats."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from hetpure.config.plugins import FORMS, entry_points, is_target, load
from hetpure.errors import ConfigError, require
from hetpure.models.checkpoints import existing_path, one_line, reading
from hetpure.schedule import Schedule

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

    from hetpure.models.ddpmpp import DDPMpp

LINEAR_VP = Schedule()
"""The schedule of every checkpoint format that is supported."""


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
    schedule: Schedule = LINEAR_VP

    @abstractmethod
    def forward(self, x: Tensor, t: int) -> Tensor:
        """The noise in x(t).

        Args:
            x: (B, C, H, W), the diffused image, on images scaled to [-1, 1].
            t: timestep 0..T-1 of the schedule, the same for the batch.

        Returns:
            (B, C, H, W), contiguous.
        """

    def check_image_shape(self, shape: tuple[int, int, int]) -> None:
        """Raises ConfigError where images of (C, H, W) cannot go through this denoiser."""
        channels, height, width = shape
        square, multiple = self.image_size, self.multiple
        sizes = f"{square}x{square}" if square else f"sides that are multiples of {multiple}"
        fits = (height, width) == (square, square) if square else True
        if channels != self.channels or not fits or height % multiple or width % multiple:
            takes = f"takes {self.channels} channels and {sizes}, but the data's images are {channels}x{height}x{width}"
            raise ConfigError("denoiser", f"{takes}; set data.image_size or choose another denoiser.path")
        try:
            with torch.no_grad():
                out = self(torch.zeros(1, *shape), 0)
        except Exception as error:  # a foreign network may raise anything
            raise ConfigError("denoiser", f"cannot predict the noise of one image: {one_line(error, 200)}") from None
        if out.shape != (1, *shape) or not bool(out.isfinite().all()):
            predicts = f"predicts {tuple(out.shape)} for one {tuple(shape)} image"
            raise ConfigError("denoiser", f"{predicts}, or values that are not finite")


class DiffusersDenoiser(Denoiser):
    """diffusers' ``UNet2DModel`` with noise ("epsilon") prediction; of a learned variance only the mean is used."""

    def __init__(self, unet: "UNet2DModel", schedule: Schedule = LINEAR_VP) -> None:
        super().__init__()
        # Channels-last convolutions are faster on CPUs and GPUs alike; everything outside stays contiguous.
        self.unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.schedule = schedule
        config: Any = unet.config
        self.channels = config.in_channels
        size = config.sample_size
        self.image_size = size if isinstance(size, int) or size is None else size[0]
        self.multiple = 2 ** (len(config.block_out_channels) - 1)

    def forward(self, x: Tensor, t: int) -> Tensor:
        timesteps = torch.full((len(x),), t, device=x.device, dtype=torch.long)
        out: Tensor = self.unet(x, timesteps, return_dict=False)[0]
        return out[:, : self.channels].contiguous()


class Conditioning(NamedTuple):
    """How a network F predicts the noise at one timestep: ``skip`` x(t) + ``out`` F(``scale`` x(t); ``label``)."""

    scale: float
    label: float
    skip: float
    out: float


class ContinuousDenoiser(Denoiser):
    """A DDPM++ network that was trained on continuous noise levels, evaluated at those of the schedule's timesteps."""

    def __init__(self, network: "DDPMpp", conditioning: Sequence[Conditioning], schedule: Schedule = LINEAR_VP) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.conditioning, self.schedule = tuple(conditioning), schedule
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
    """Base class of a denoiser around another: the same images, the same schedule."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.channels, self.image_size, self.multiple = denoiser.channels, denoiser.image_size, denoiser.multiple
        self.schedule = denoiser.schedule


class Recomputed(DenoiserWrapper):
    """The same denoiser, which keeps no activations for the backward pass but runs each call again in it.

    Memory of a gradient through many steps is then that of one step plus one image per step, on a ``Shelf``. Calls at
    noise levels below ``from_t`` keep their graph. They are the last of a purification, so the backward pass has freed
    their graphs before it computes the others again.

    Args:
        denoiser: the denoiser.
        from_t: fraction of the schedule from which on calls are computed again.
    """

    def __init__(self, denoiser: Denoiser, from_t: float = 0.0) -> None:
        super().__init__(denoiser)
        self.from_t, self.shelf = from_t, Shelf()

    def at(self, t: int) -> Denoiser:
        """What computes the gradient of a call at a timestep: this, or the denoiser itself where its graph is kept."""
        return self if t >= round(self.from_t * self.schedule.T) else self.denoiser

    def forward(self, x: Tensor, t: int) -> Tensor:
        if self.at(t) is not self or not (torch.is_grad_enabled() and x.requires_grad):
            return self.denoiser(x, t)
        out = _Recompute.apply(x, t, self)
        assert isinstance(out, Tensor)
        return out


class Shelf:
    """Keeps copies of tensors for the backward pass, in large blocks of their own.

    Between activations in the heap, they would keep freed memory from being reused (measured with 100 steps of a small
    UNet: 1.3 GB where 60 MB were alive).
    """

    def __init__(self) -> None:
        self._shelf: Any = None
        self._shelf_like: Any = None
        self._free = 0

    def keep(self, x: Tensor) -> Tensor:
        """A copy of x in a block of many; a block is freed when none of its copies is needed any more."""
        like = x.shape, x.dtype, x.device
        if not self._free or self._shelf_like != like:
            self._free = -(-SHELF_BYTES // x.nbytes)
            self._shelf, self._shelf_like = x.new_empty((self._free, *x.shape)), like
        self._free -= 1
        return self._shelf[self._free].copy_(x.detach())


SHELF_BYTES = 33 * 2**20
"""More than the 32 MiB up to which the C library may take memory from the heap; pages count once they are written."""


class _Recompute(torch.autograd.Function):
    """A network call whose backward pass makes its graph anew. It draws nothing at random, so it is the same call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: int, recomputed: Recomputed) -> Tensor:
        ctx.x, ctx.t, ctx.denoiser = recomputed.shelf.keep(x), t, recomputed.denoiser
        return recomputed.denoiser(x, t)

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
    denoisers = [m for m in module.modules() if isinstance(m, Denoiser)]
    return [m for m in denoisers if not any(isinstance(child, Denoiser) for child in m.modules() if child is not m)]


class Format(NamedTuple):
    """A checkpoint format: its loader, and what such a file holds, for messages.

    The loader, ``module:function``, is imported when it is used; it takes a path and gives a Denoiser. It raises
    CheckpointError where the file cannot be read or its weights do not fit; for another network, any exception.
    """

    loader: str
    content: str


_GUIDED_DIFFUSION = "unconditional guided-diffusion network with --resblock_updown True"
_SCORE_SDE = "DDPM++ network of score_sde_pytorch: NCSN++, BigGAN blocks, positional embedding, nothing progressive"

GROUP = "hetpure.formats"
"""Of the entry points by which installed packages offer formats."""

FORMATS = {
    "diffusers": Format("hetpure.models.diffusers_folder:load_diffusers", "diffusers UNet2DModel"),
    "diffusers_null_class": Format(
        "hetpure.models.diffusers_folder:load_null_class", "diffusers UNet2DModel with classes"
    ),
    "ddpm": Format("hetpure.models.ddpm:load_ddpm", "DDPM network of ermongroup/ddim's layout"),
    "edm": Format("hetpure.models.edm:load_edm", "DDPM++ network (--arch=ddpmpp)"),
    "guided_diffusion": Format("hetpure.models.guided_diffusion:load_guided_diffusion", _GUIDED_DIFFUSION),
    "score_sde": Format("hetpure.models.score_sde:load_score_sde", _SCORE_SDE),
    "score_sde_matched": Format("hetpure.models.score_sde:load_score_sde_matched", _SCORE_SDE),
}


def build_denoiser(path: str, format: str = "diffusers", source: str | None = None) -> Denoiser:
    """Loads a denoiser in one of ``FORMATS``.

    Args:
        path: file, folder or hub id of the checkpoint.
        format: one of ``FORMATS``; an entry point of the group ``GROUP``; or ``FILE.py:NAME`` or
            ``package.module:NAME``, a function that takes a path and gives a ``Denoiser``.
        source: where a checkpoint that is a file comes from, for the message where it is missing.

    Raises:
        ConfigError: for an unknown format, or where the checkpoint cannot be loaded.
    """
    offered = {**{name: Format(target, "checkpoint") for name, target in entry_points(GROUP).items()}, **FORMATS}
    if format not in offered and not is_target(format):
        raise ConfigError("denoiser.format", found=format, accepted=f"{', '.join(offered)}, or {FORMS}")
    loader, content = offered.get(format) or Format(format, "checkpoint")
    may_be_hub_id = source is None and format == "diffusers"
    resolved = path if may_be_hub_id else str(existing_path(path, "denoiser.path", source))
    load_denoiser = load(loader, "denoiser.format")
    with reading(path, "denoiser.path", content):
        denoiser = load_denoiser(resolved)
    require(isinstance(denoiser, Denoiser), "denoiser.format", format, "a function that gives a hetpure.Denoiser")
    return denoiser
