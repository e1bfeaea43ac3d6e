"""What every purifier must fulfil, tried on small networks and images: ``hetpure check`` and this project's tests."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, Recomputed
from hetpure.noise import Draws
from hetpure.purification.base import Purifier

SHAPE = (3, 8, 8)
"""(C, H, W) of the images."""

GRADIENT_TOLERANCE = 1e-5
"""Of a directional derivative in float64, relative to the gradient's norm."""

ALONE_TOLERANCE = 1e-5
"""Of an image alone against the same image among others, where networks' kernels round by the size of the batch."""


class Verdict(NamedTuple):
    """The outcome of one check.

    Attributes:
        name: what was checked.
        passed: whether it holds; None where it does not apply.
        details: what was seen.
    """

    name: str
    passed: bool | None
    details: str


class SmoothDenoiser(Denoiser):
    """eps = a(t) * tanh(x + x shifted by a pixel): mixes pixels, depends on t, keeps the timesteps of its calls."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: int) -> Tensor:
        self.asked.append(t)
        return (0.5 + t / 1000) * torch.tanh(0.7 * x + 0.4 * x.roll(1, dims=-1) - 0.1)


Build = Callable[[Denoiser, torch.dtype], Purifier]
"""Makes the purifier around a denoiser, behind a classifier of a dtype."""


def small_classifier(dtype: torch.dtype = torch.float32) -> Classifier:
    """Two smooth convolution blocks, ``block1`` and ``block2``, and a head of 10 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential()
        network.add_module("block1", nn.Sequential(nn.Conv2d(SHAPE[0], 6, 3, padding=1), nn.SiLU()))
        network.add_module("block2", nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.SiLU()))
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("head", nn.Linear(8, 10))
    return Classifier(network, [0.4] * SHAPE[0], [0.3] * SHAPE[0]).eval().requires_grad_(False).to(dtype)


def small_images(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images (N, C, H, W) in (0.2, 0.8)."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand((count, *SHAPE), generator=generator, dtype=torch.float64).to(dtype)


def draws_of(count: int, draw: int = 0) -> Draws:
    """One draw for each of N samples."""
    return Draws(7, "defense", torch.arange(count), torch.full((count,), draw))


def check_purifier(build: Build) -> Iterator[Verdict]:
    """All checks of a purifier; an exception in one of them is its failure."""
    for check in (check_images, check_randomness, check_rows, check_calls, check_views, check_gradient):
        try:
            yield check(build)
        except Exception as error:  # a user's purifier may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            yield Verdict(check.__name__.removeprefix("check_"), False, reason)


def check_images(build: Build) -> Verdict:
    """Purified images have the shape and dtype of the given ones, are finite and within [0, 1]."""
    x = torch.cat((small_images(2), torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)))
    out = build(SmoothDenoiser(), x.dtype)(x, draws_of(4)).detach()
    if out.shape != x.shape or out.dtype != x.dtype:
        return Verdict("images", False, f"{tuple(out.shape)} {out.dtype} of images {tuple(x.shape)} {x.dtype}")
    low, high, finite = float(out.min()), float(out.max()), bool(out.isfinite().all())
    passed = finite and low >= 0.0 and high <= 1.0
    return Verdict("images", passed, f"from {low:.3g} to {high:.3g}" if finite else "not finite")


def check_randomness(build: Build) -> Verdict:
    """All randomness comes from the draws: torch's global generator is not used and changes nothing."""
    purifier, x = build(SmoothDenoiser(), torch.float32), small_images(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = purifier(x, draws_of(2))
        torch.manual_seed(2)
        before = torch.random.get_rng_state()
        second, other = purifier(x, draws_of(2)), purifier(x, draws_of(2, draw=1))
        untouched = torch.equal(before, torch.random.get_rng_state())
    if not torch.equal(first, second) or not untouched:
        return Verdict("randomness", False, "results depend on, or change, torch's global generator; use the draws")
    if torch.equal(first, other) is purifier.stochastic:
        seen = "two draws are equal" if purifier.stochastic else "two draws differ"
        return Verdict("randomness", False, f"{seen}, but stochastic is {purifier.stochastic}")
    return Verdict("randomness", True, "keyed by the draws alone" if purifier.stochastic else "none, as declared")


def check_rows(build: Build) -> Verdict:
    """A row's result depends on no other row: to the bit among others and in another order."""
    purifier, x = build(SmoothDenoiser(), torch.float32), small_images(3)
    together = purifier(x, draws_of(3))
    others = torch.stack([1.0 - x[2], x[1], 0.5 * x[0]])
    if not torch.equal(purifier(others, draws_of(3))[1], together[1]):
        return Verdict("rows", False, "an image's result changes with the other images of its batch")
    order = torch.tensor([2, 0, 1])
    if not torch.equal(purifier(x[order], draws_of(3).rows(order)), together[order]):
        return Verdict("rows", False, "an image's result changes with its place in the batch")
    difference = float((purifier(x[1:2], draws_of(3).rows(slice(1, 2))) - together[1:2]).abs().max())
    details = f"an image alone differs by {difference:.1g} from the same among others, at most {ALONE_TOLERANCE:g}"
    return Verdict("rows", difference <= ALONE_TOLERANCE, details)


def check_calls(build: Build) -> Verdict:
    """``network_calls`` is the number of network calls in one purification."""
    denoiser = SmoothDenoiser()
    purifier, rows = build(denoiser, torch.float32), 0
    if isinstance(network := purifier.arguments.get("network"), nn.Module):

        def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal rows
            rows += len(inputs[0])

        network.register_forward_pre_hook(count)
    purifier(small_images(2), draws_of(2))
    calls = len(denoiser.asked) + rows // 2
    details = f"{calls} counted, network_calls is {purifier.network_calls}"
    return Verdict("network calls", calls == purifier.network_calls, details)


def check_views(build: Build) -> Verdict:
    """``views`` are images in [0, 1], the last one ``purified``, the same as the purifier's result."""
    purifier, x = build(SmoothDenoiser(), torch.float32), small_images(2)
    views = purifier.views(x, draws_of(2))
    if list(views)[-1:] != ["purified"] or not torch.equal(views["purified"], purifier(x, draws_of(2))):
        return Verdict("views", False, "the last view must be purified, equal to the result")
    for name, view in views.items():
        if view.shape[:1] + view.shape[2:] != (2, *SHAPE[1:]) or not 0.0 <= view.min() <= view.max() <= 1.0:
            return Verdict("views", False, f"{name} is no image (N, C, H, W) in [0, 1]")
    return Verdict("views", True, ", ".join(views))


def check_gradient(build: Build) -> Verdict:
    """The gradient is the central difference in float64, along random directions and a pixel, also where recomputed."""
    if not build(SmoothDenoiser(), torch.float32).differentiable:
        return Verdict("gradient", None, "differentiable is False: attacked with attack.gradient=bpda")
    errors = [gradient_error(build, wrap) for wrap in (lambda denoiser: denoiser, Recomputed)]
    if None in errors:
        return Verdict("gradient", False, "the result does not depend on the image")
    worst = max(error for error in errors if error is not None)
    return Verdict("gradient", worst < GRADIENT_TOLERANCE, f"off by {worst:.1g}, at most {GRADIENT_TOLERANCE:g}")


def gradient_error(build: Build, wrap: Callable[[Denoiser], Denoiser], h: float = 1e-6) -> float | None:
    """Largest error of a directional derivative, relative to the gradient's norm; None where nothing depends on x."""
    purifier, x = build(wrap(SmoothDenoiser()), torch.float64), small_images(2, torch.float64).requires_grad_()

    def random(seed: int) -> Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    weight, pixel = random(1), torch.zeros_like(x)
    pixel[:, 1, 3, 4] = 1.0
    out = purifier(x, draws_of(2))
    if not out.requires_grad:
        return None
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    errors = []
    with torch.no_grad():
        for direction in (random(2), random(3), random(4), pixel):
            ahead, behind = ((purifier(x + sign * h * direction, draws_of(2)) * weight).sum() for sign in (1, -1))
            expected = float(ahead - behind) / (2 * h)
            if abs(expected) < 1e-4:
                return None
            size = max(abs(expected), float(gradient.norm()))
            errors.append(abs(float((gradient * direction).sum()) - expected) / size)
    return max(errors)
