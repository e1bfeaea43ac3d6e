"""NaN and infinity: kept from hiding, and traced to the tensor where they began."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hetpure.defense.hooks import after_calls
from hetpure.models.denoisers import DenoiserWrapper, innermost
from hetpure.noise import Draws

if TYPE_CHECKING:
    from hetpure.defense.classifier import PurifiedClassifier


def finite_rows(x: Tensor) -> Tensor:
    """Whether all of each row's values are finite, (N,) of an (N, ..) tensor."""
    return x.isfinite().flatten(1).all(dim=1) if x.ndim > 1 else x.isfinite()


class Guarded(DenoiserWrapper):
    """The same denoiser; a row with any value that is not finite becomes NaN throughout.

    Clamping a purified image would otherwise turn an infinite value into a valid one.
    """

    def forward(self, x: Tensor, t: int) -> Tensor:
        noise = self.denoiser(x, t)
        return torch.where(finite_rows(noise).view(-1, *[1] * (noise.ndim - 1)), noise, torch.nan)


@torch.no_grad()
def first_not_finite(process: "PurifiedClassifier", x: Tensor, draws: Draws) -> str | None:
    """Names the first tensor that is not finite, and its denoising step, of purifications of one image (1, C, H, W)."""
    not_finite: list[str] = []

    def check(name: str, value: Tensor) -> None:
        if not value.isfinite().all():
            not_finite.append(f"{name}, {'NaN' if value.isnan().any() else 'infinite'}")

    def check_call(_: nn.Module, arguments: tuple[Tensor, int], noise: Tensor) -> None:
        x_t, t = arguments
        check(f"x(t) at timestep {t}", x_t)
        check(f"predicted noise at timestep {t}", noise)

    check("the image", x)
    if not not_finite:  # a purifier need not take other images
        for prepared in process.prepare(x):
            check("the mask", prepared)
        # The innermost: what wraps it has turned infinity into NaN already.
        with after_calls(innermost(process.purifier), check_call):
            check("the purified image", process.purified_images(x, draws))
        check("logits", process.purified_logits(x, draws))
    return next(iter(not_finite), None)
