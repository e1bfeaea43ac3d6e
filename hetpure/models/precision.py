"""Networks in lower precision or compiled: another function, which defense and attack then share.

Only the networks: noise, steps and gradients' sums stay float32. Weights are kept in float32 and cast as they are used.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DenoiserWrapper

Precision = Literal["float32", "tf32", "bfloat16"]


class Lowered(DenoiserWrapper):
    """The same denoiser with convolutions and matrix products in bfloat16 (autocast), forward and backward."""

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
    """A classifier likewise, in place."""
    classifier.autocast_dtype = torch.bfloat16 if precision == "bfloat16" else None
    if compiled:
        classifier.network.compile(dynamic=False)
    return classifier


def lowered_denoiser(denoiser: Denoiser, precision: Precision | None) -> Denoiser:
    """A denoiser as an attacker calls it who computes in a lower precision; the weights are shared."""
    return Lowered(denoiser) if precision == "bfloat16" else denoiser


def lowered_classifier(classifier: Classifier, precision: Precision | None) -> Classifier:
    """A classifier likewise; the one that is given stays as it is."""
    if precision != "bfloat16":
        return classifier
    lowered = copy.copy(classifier)
    lowered._forward_hooks = OrderedDict()  # a copy shares them, and a call would count twice
    lowered.autocast_dtype = torch.bfloat16
    return lowered


@contextmanager
def tf32_if(wanted: bool) -> Iterator[None]:
    """Allows TF32 as long as the context lasts, and forbids it afterwards; changes nothing where it is not wanted."""
    if not wanted:
        yield
        return
    allow_tf32("tf32")
    try:
        yield
    finally:
        allow_tf32("float32")


def allow_tf32(precision: Precision) -> None:
    """Lets NVIDIA GPUs round the factors of float32 products to TF32's 10 bits, or forbids it, in this process.

    By default, torch allows it in convolutions.
    """
    if not hasattr(torch.backends, "fp32_precision"):  # before torch 2.9
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        return
    setting = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = setting
    torch.backends.cudnn.conv.fp32_precision = setting  # pyright: ignore[reportAttributeAccessIssue]
