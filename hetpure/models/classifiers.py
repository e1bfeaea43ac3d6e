"""Classifiers: any timm model, any importable nn.Module, with its own normalisation inside.

Everything outside speaks images in [0, 1].
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from hetpure.errors import ConfigError, require
from hetpure.lazy import import_quickly
from hetpure.models.checkpoints import existing_path, one_line
from hetpure.models.networks import import_network, load_weights

Interpolation = Literal["bilinear", "bicubic"]

DIFFUSION = "diffusion"
"""In place of a network's name: a class-conditional denoiser as a classifier; see ``DiffusionClassifier``."""

RANDOM = "random"
"""In place of a file of weights: an untrained network, the same one each time it is built."""


class Classifier(nn.Module):
    """A network with the preprocessing it was trained with: image in [0, 1] to logits, differentiable.

    With an ``image_size`` images are resized so that the centre square of that side is ``crop_pct`` of their shorter
    side, and cut to it: timm's evaluation transform on tensors, without its rounding and clipping to 8 bits after each
    pass. An image whose shorter side is floor(image_size / crop_pct) already (256 for 224 and 0.875) is cut
    only, no pixel changed.

    Args:
        network: (B, C, H, W) normalised images to (B, K) logits.
        mean: per channel, subtracted.
        std: per channel, divided by.
        image_size: side of the square that the network sees; None leaves images as they are.
        crop_pct: share in (0, 1] of the shorter side that is kept; 1 resizes and, of a square image, cuts nothing.
        interpolation: of the resizing, antialiased; bicubic overshoots are clamped to [0, 1], as in 8-bit images.

    Attributes:
        autocast_dtype: in which the network's convolutions and matrix products run, forward and backward; None for the
            dtype of the images.
        stochastic: whether its logits depend on draws, which ``forward`` then takes.
        network_calls: of a denoiser, in one classification.

    Raises:
        ConfigError: for arguments out of range.
    """

    autocast_dtype: torch.dtype | None = None
    stochastic: ClassVar[bool] = False
    network_calls: int = 0

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        require(all(map(math.isfinite, mean)), "mean", list(mean), "finite numbers")
        require(all(0.0 < value < math.inf for value in std), "std", list(std), "numbers above 0, finite")
        require(image_size is None or image_size >= 1, "image_size", image_size, "1 or more")
        require(0.0 < crop_pct <= 1.0, "crop_pct", crop_pct, "above 0 and up to 1")
        require(interpolation in ("bilinear", "bicubic"), "interpolation", interpolation, "bilinear, bicubic")
        self.network, self.image_size, self.crop_pct = network, image_size, crop_pct
        self.interpolation: Interpolation = interpolation
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def view(self, x: Tensor) -> Tensor:
        """What the network sees of images x (B, C, H, W) in [0, 1]: resized and cut, still in [0, 1]."""
        if self.image_size is None:
            return x
        size = self._resized(x.shape[-2], x.shape[-1])
        if size != x.shape[-2:]:
            x = functional.interpolate(x, size, mode=self.interpolation, antialias=True, align_corners=False)
            x = x.clamp(0.0, 1.0) if self.interpolation == "bicubic" else x
        top, left = (_offset(side, self.image_size) for side in size)
        return x[..., top : top + self.image_size, left : left + self.image_size]

    def seen(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of an image that reach the network, to the nearest pixel: all, where nothing is cut."""
        if self.image_size is None:
            return slice(0, height), slice(0, width)
        parts = []
        for side, resized in zip((height, width), self._resized(height, width), strict=True):
            start, scale = _offset(resized, self.image_size), side / resized
            parts.append(slice(round(start * scale), round((start + self.image_size) * scale)))
        return parts[0], parts[1]

    def normalize(self, x: Tensor) -> Tensor:
        """The network's own input for images x (B, C, H, W) in [0, 1]: its view, normalised."""
        return (self.view(x) - self.mean) / self.std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Size after the resizing: the shorter side floor(image_size / crop_pct), as timm and torchvision round it."""
        assert self.image_size is not None
        shorter = math.floor(self.image_size / self.crop_pct)
        if height <= width:
            return shorter, int(shorter * width / height)
        return int(shorter * height / width), shorter

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which to call the network."""
        dtype = self.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.mean.device.type, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        z = self.normalize(x)
        with self.autocast():
            return self.network(z).to(x.dtype)

    def check_classes(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raises ConfigError where the network does not give ``num_classes`` logits for such images."""
        try:
            with torch.no_grad():
                shape = tuple(self.eval()(torch.zeros(1, *image_shape)).shape)
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            problem = f"the network does not take the data's {'x'.join(map(str, image_shape))} images"
            raise ConfigError("classifier.name", f"{problem}: {one_line(error, 200)}") from None
        if shape != (1, num_classes):
            raise ConfigError("classifier", f"gives {shape[-1]} class scores, but the data have {num_classes} classes")


def build_classifier(
    name: str,
    weights: str | None = None,
    *,
    pretrained: bool = False,
    arguments: dict[str, Any] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    image_size: int | None = None,
    source: str | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
) -> Classifier:
    """Builds a classifier, frozen and in evaluation mode.

    Args:
        name: timm model name; ``package.module:Class`` or ``path/to/file.py:Class``; or a function that builds it;
            ``diffusion`` for a ``DiffusionClassifier``, whose weights are a folder.
        weights: state dict to load, ``.safetensors`` or a ``torch.save`` file (read with ``weights_only``); ``random``
            for an untrained network, the same one each time. None is for a network that sets its own weights.
        pretrained: let timm fetch its own weights.
        arguments: for the network's constructor, such as ``num_classes``.
        mean: normalisation; timm's own for a timm model, else 0.
        std: normalisation; timm's own for a timm model, else 1.
        image_size: side of the square that the network sees; None leaves images as they are.
        source: where ``weights`` come from, for the message where they are missing.
        crop_pct: see ``Classifier``; by default a timm model's own at its own size, else 1.
        interpolation: see ``Classifier``; by default a timm model's own, else bilinear.

    Raises:
        ConfigError: for a name, arguments or weights that cannot be used; for an untrained network without ``random``.
    """
    build = partial(build_network, name, pretrained=pretrained, arguments=arguments)
    try:
        if name == DIFFUSION:
            from hetpure.models.diffusion_classifier import load_diffusion_classifier

            fixed = {"mean": mean, "std": std, "crop_pct": crop_pct, "interpolation": interpolation}
            for key, value in {**fixed, "pretrained": pretrained or None}.items():
                require(value is None, key, value, "none: a diffusion classifier takes weights, arguments, image_size")
            return load_diffusion_classifier(weights, arguments or {}, image_size, source)
        if weights == RANDOM:
            require(not pretrained, "pretrained", pretrained, "false with weights: random")
            network = _initialized(build, seed=0)
        elif weights is None:
            network = _initialized(build, seed=0)
            if (untrained := _untrained(network, _initialized(build, seed=1))) is not None:
                problem = f"and {name} is untrained: {untrained} is random"
                accepted = "a file; random, for an untrained network"
                accepted += "" if ":" in name or pretrained else "; null with classifier.pretrained=true"
                raise ConfigError("weights", problem, found=None, accepted=accepted)
        else:
            existing_path(weights, "weights", source)
            network = build()
            load_weights(network, weights)
        channels = (arguments or {}).get("in_chans", 3)
        preprocessing = {"mean": mean, "std": std, "crop_pct": crop_pct, "interpolation": interpolation}
        classifier = with_preprocessing(network, channels, image_size, **preprocessing)
    except ConfigError as error:
        raise error.within("classifier") from None
    return classifier.eval().requires_grad_(False)


def build_network(name: str, *, pretrained: bool = False, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The bare network of ``build_classifier``, trainable.

    Raises:
        ConfigError: for a name or arguments that cannot be used.
    """
    kwargs = dict(arguments or {})
    if ":" in name:
        require(not pretrained, "pretrained", pretrained, f"false for {name}, which is no timm model: give its weights")
        return import_network(name, kwargs)
    import_quickly("hetpure.models.resnet")  # registers its models with timm, as the next does
    import_quickly("hetpure.models.wide_resnet")
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ConfigError("name", f"{name!r} is no timm model, and no package.module:Class{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except ConfigError as error:
        raise error.within("arguments") from None
    except (TypeError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError("name", f"timm cannot create {name}: {one_line(error)}") from None


def _initialized(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network that is built from a seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _untrained(network: nn.Module, other: nn.Module) -> str | None:
    """The first tensor in which a network differs from one built from another seed: nothing has set it since."""
    others = dict(itertools.chain(other.named_parameters(), other.named_buffers()))
    for name, value in itertools.chain(network.named_parameters(), network.named_buffers()):
        no_value = is_lazy(value) or value.is_meta
        if no_value or name not in others or not torch.equal(value, others[name]):
            return name
    return None


def with_preprocessing(
    network: nn.Module, channels: int = 3, image_size: int | None = None, **given: Any
) -> Classifier:
    """A network behind its preprocessing: what is ``given``, else what a timm model states, else none.

    It may be the ``mean``, ``std``, ``crop_pct`` and ``interpolation`` of ``Classifier``; None is not given.
    """
    stated = getattr(network, "pretrained_cfg", None) or {}
    mean, std = stated.get("mean", ()), stated.get("std", ())
    if not len(mean) == len(std) == channels:
        mean, std = (0.0,), (1.0,)
    settings: dict[str, Any] = {
        "mean": mean,
        "std": std,
        "crop_pct": _stated_crop(stated, image_size),
        "interpolation": "bicubic" if stated.get("interpolation") == "bicubic" else "bilinear",
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    return Classifier(network, image_size=image_size, **settings)


def _stated_crop(stated: Mapping[str, Any], image_size: int | None) -> float:
    """The ``crop_pct`` that a timm model states for this size; 1 for another size or model.

    Of timm's ways to cut, ``squash`` is the same for square images; ``border``, which pads, is not followed.
    """
    if image_size is None or stated.get("crop_mode") == "border":
        return 1.0
    for size, crop in (("input_size", "crop_pct"), ("test_input_size", "test_crop_pct")):
        if (stated.get(size) or (0,))[-1] == image_size:
            return float(stated.get(crop) or stated.get("crop_pct") or 1.0)
    return 1.0


def is_compiled(network: nn.Module) -> bool:
    """Whether calls of a network go through ``torch.compile``, which knows no later hooks and no second derivative."""
    return getattr(network, "_compiled_call_impl", None) is not None


def _offset(side: int, crop: int) -> int:
    """Where a centre crop begins, rounded as torchvision does."""
    return round((side - crop) / 2.0)
