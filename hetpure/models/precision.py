"""Networks in lower precision or compiled: another function, which defense and attack then share.

Only the networks: noise, steps and gradients' sums stay float32. Weights are kept in float32 and cast as they are used.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DenoiserWrapper

Precision = Literal["float32", "tf32", "bfloat16"]


class Lowered(DenoiserWrapper):
    """The same denoiser with convolutions and matrix products in bfloat16 (autocast), forward and backward.

    Args:
        denoiser: the denoiser to wrap.
    """

    def forward(self, x: Tensor, t: int) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            noise = self.denoiser(x, t)
        return noise.to(x.dtype)


def prepared_denoiser(denoiser: Denoiser, precision: Precision, compiled: bool) -> Denoiser:
    """A denoiser as an evaluation's options want it; compiled in place, for each batch size that comes."""
    if compiled:
        for network in denoiser.children():
            network.compile(dynamic=False)
    return Lowered(denoiser) if precision == "bfloat16" else denoiser


def prepared_classifier(classifier: Classifier, precision: Precision, compiled: bool) -> Classifier:
    """A classifier likewise, in place: its modules keep their names, which masks look them up by."""
    network = classifier.network
    if precision == "bfloat16":
        # Its forward pass, and the way that timm's feature interface takes around it.
        for name in ("forward", "forward_intermediates"):
            if (function := getattr(network, name, None)) is not None:
                object.__setattr__(network, name, _in_bfloat16(function))
    if compiled:
        network.compile(dynamic=False)
    return classifier


def allow_tf32(precision: Precision) -> None:
    """Lets NVIDIA GPUs round the factors of float32 products to TF32's 10 bits, or forbids it, in this process.

    Left alone, torch allows it in convolutions.
    """
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        return
    wanted = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = wanted
    torch.backends.cudnn.conv.fp32_precision = wanted  # pyright: ignore[reportAttributeAccessIssue]


def _in_bfloat16(function: Callable[..., Any]) -> Callable[..., Any]:
    def lowered(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        def restored(y: Any) -> Any:
            return y.to(x.dtype) if isinstance(y, Tensor) and y.is_floating_point() else y

        with torch.autocast(x.device.type, torch.bfloat16):
            found = function(x, *args, **kwargs)
        return tree_map(restored, found)

    return lowered
