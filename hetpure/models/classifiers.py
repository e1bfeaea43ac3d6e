"""Classifiers: any timm model, any importable nn.Module, with its own normalisation inside.

Everything outside speaks images in [0, 1].
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import hetpure.models.resnet  # noqa: F401  registers its models with timm
from hetpure.errors import ConfigError
from hetpure.models.checkpoints import check_there
from hetpure.models.networks import import_network, load_weights

Interpolation = Literal["bilinear", "bicubic"]


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
    """

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
        if not all(value > 0.0 for value in std):
            raise ConfigError(f"classifier.std: found {list(std)}, accepted are numbers above 0")
        if image_size is not None and image_size < 1:
            raise ConfigError(f"classifier.image_size: found {image_size}, accepted is 1 or more")
        if not 0.0 < crop_pct <= 1.0:
            raise ConfigError(f"classifier.crop_pct: found {crop_pct}, accepted is above 0 and up to 1")
        if interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"classifier.interpolation: found {interpolation!r}, accepted are bilinear, bicubic")
        self.network = network
        self.image_size, self.crop_pct = image_size, crop_pct
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

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.network(self.normalize(x))

    def check_classes(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raises ConfigError where the network does not give ``num_classes`` logits for such images."""
        try:
            with torch.no_grad():
                found = tuple(self.eval()(torch.zeros(1, *image_shape)).shape)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            shape = "x".join(map(str, image_shape))
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"classifier.name: the network does not take the data's {shape} images: {reason}"
            ) from None
        if found != (1, num_classes):
            raise ConfigError(f"classifier: gives {found[-1]} class scores, the data have {num_classes} classes")


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
        name: timm model name; ``package.module:Class`` or ``path/to/file.py:Class``; or a function that builds it.
        weights: state dict to load, ``.safetensors`` or a ``torch.save`` file (read with ``weights_only``).
        pretrained: let timm fetch its own weights.
        arguments: for the network's constructor, such as ``num_classes``.
        mean: normalisation; timm's own for a timm model, else 0.
        std: normalisation; timm's own for a timm model, else 1.
        image_size: side of the square that the network sees; None leaves images as they are.
        crop_pct: see ``Classifier``; by default a timm model's own at its own size, else 1.
        interpolation: see ``Classifier``; by default a timm model's own, else bilinear.
        source: where ``weights`` can be had, which the message says where they are missing.

    Raises:
        ConfigError: for a name, arguments or weights that cannot be used.
    """
    if weights is not None:
        check_there(weights, "classifier.weights", source)
    network = build_network(name, pretrained=pretrained, arguments=arguments)
    if weights is not None:
        load_weights(network, weights, "classifier.weights")
    default_mean, default_std = normalization_of(network, (arguments or {}).get("in_chans", 3))
    classifier = Classifier(
        network,
        mean or default_mean,
        std or default_std,
        image_size,
        crop_of(network, image_size) if crop_pct is None else crop_pct,
        interpolation or interpolation_of(network),
    )
    return classifier.eval().requires_grad_(False)


def build_network(name: str, *, pretrained: bool = False, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The bare network of ``build_classifier``, trainable."""
    kwargs = dict(arguments or {})
    if ":" not in name:
        if not timm.is_model(name):
            close = timm.list_models(f"*{name.split('.')[0]}*")[:3]
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ConfigError(f"classifier.name: {name!r} is no timm model, and no package.module:Class{hint}")
        try:
            return timm.create_model(name, pretrained=pretrained, **kwargs)
        except (TypeError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"classifier.name: timm cannot create {name}: {' '.join(str(error).split())[:300]}"
            ) from None
    if pretrained:
        raise ConfigError("classifier.pretrained: only timm models can be; give classifier.weights")
    return import_network(name, kwargs, "classifier")


def normalization_of(network: nn.Module, channels: int = 3) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that a timm model states for its channels; 0 and 1 for any other."""
    stated = getattr(network, "pretrained_cfg", None) or {}
    mean, std = stated.get("mean", ()), stated.get("std", ())
    return (mean, std) if len(mean) == len(std) == channels else ((0.0,), (1.0,))


def crop_of(network: nn.Module, image_size: int | None) -> float:
    """The ``crop_pct`` that a timm model states for this size; 1 for another size or model.

    Of timm's ways to cut, ``squash`` is the same for square images; ``border``, which pads, is not followed.
    """
    stated = getattr(network, "pretrained_cfg", None) or {}
    if image_size is None or stated.get("crop_mode") == "border":
        return 1.0
    for size, crop in (("input_size", "crop_pct"), ("test_input_size", "test_crop_pct")):
        if (stated.get(size) or (0,))[-1] == image_size:
            return float(stated.get(crop) or stated.get("crop_pct") or 1.0)
    return 1.0


def interpolation_of(network: nn.Module) -> Interpolation:
    """The interpolation that a timm model states; bilinear for any other."""
    stated = getattr(network, "pretrained_cfg", None) or {}
    return "bicubic" if stated.get("interpolation") == "bicubic" else "bilinear"


def is_compiled(network: nn.Module) -> bool:
    """Whether calls of a network go through ``torch.compile``."""
    return getattr(network, "_compiled_call_impl", None) is not None


def _offset(side: int, crop: int) -> int:
    """Where a centre crop begins, rounded as torchvision does."""
    return round((side - crop) / 2.0)
