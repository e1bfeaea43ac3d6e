"""NaN and infinity: kept from hiding, and traced to the tensor where they began."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import DenoiserWrapper, innermost
from hetpure.noise import Draws


def finite_rows(x: Tensor) -> Tensor:
    """Whether all of each row's values are finite, (N,) of an (N, ..) tensor."""
    return x.isfinite().flatten(1).all(dim=1) if x.ndim > 1 else x.isfinite()


class Guarded(DenoiserWrapper):
    """The same denoiser; a row with any value that is not finite becomes NaN throughout.

    Clamping a purified image would otherwise turn an infinite value into a valid one.

    Args:
        denoiser: the denoiser to guard.
    """

    def forward(self, x: Tensor, t: int) -> Tensor:
        noise = self.denoiser(x, t)
        return torch.where(finite_rows(noise).view(-1, *[1] * (noise.ndim - 1)), noise, torch.nan)


@torch.no_grad()
def first_not_finite(process: PurifiedClassifier, x: Tensor, draws: Draws) -> str | None:
    """Names the first tensor of some purifications that is not finite, and its denoising step; None if all are.

    Args:
        process: the defense, or the attack process.
        x: one image (1, C, H, W).
        draws: keys of its purifications.
    """
    if not finite_rows(x).all():
        return f"the image, {_kind(x)}"
    for prepared in process.prepare(x):
        if not finite_rows(prepared).all():
            return f"the mask, {_kind(prepared)}"
    with _calls(process) as calls:
        purified = process.purified_images(x, draws)
    for t, given, noise in calls:
        if given is not None:
            return f"x(t) at timestep {t}, {given}"
        if noise is not None:
            return f"predicted noise at timestep {t}, {noise}"
    if not finite_rows(purified).all():
        return f"the purified image, {_kind(purified)}"
    logits = process.purified_logits(x, draws)
    return None if finite_rows(logits).all() else f"logits, {_kind(logits)}"


def _kind(x: Tensor) -> str:
    return "NaN" if x.isnan().any() else "infinite"


@contextmanager
def _calls(process: PurifiedClassifier) -> Iterator[list[tuple[int, str | None, str | None]]]:
    """The timestep of every denoiser call, with what is not finite in its input and its output."""
    calls: list[tuple[int, str | None, str | None]] = []

    def note(_: nn.Module, arguments: tuple[Tensor, int], noise: Tensor) -> None:
        x, t = arguments
        given, predicted = (None if y.isfinite().all() else _kind(y) for y in (x, noise))
        calls.append((t, given, predicted))

    # The innermost: what wraps it has turned infinity into NaN already.
    handles = [module.register_forward_hook(note) for module in innermost(process.purifier)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
