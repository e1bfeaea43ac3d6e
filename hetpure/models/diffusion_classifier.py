"""The diffusion classifier (Chen et al. 2024): the class whose denoiser predicts an image's noise best."""

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from hetpure.arguments import KeepsArguments
from hetpure.config.schema import signature_schema, structure, to_dict
from hetpure.errors import ConfigError, require
from hetpure.models.checkpoints import existing_path, reading
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import LINEAR_VP
from hetpure.models.diffusers_folder import load_conditional
from hetpure.noise import Draws

_SIGMA_DATA, _LOG_SIGMA_MEAN = 0.5, -1.2
"""EDM's, for images on [-1, 1] (Karras et al. 2022)."""


class DiffusionClassifier(KeepsArguments, Classifier):
    """A class-conditional denoiser as a classifier: logit y is minus EDM's weighted loss of x under class y.

    With sigma^2 = (1 - abar) / abar, the loss is the integral over sigma in (0, ``sigma_max``) of p(sigma)
    (sigma^2 + s^2) / (sigma s)^2 mean |D(x(t), t, y) - x|^2 = p(sigma) (1 + sigma^2 / s^2) mean |eps(x(t), t, y) -
    eps|^2, with p log-normal and s = 0.5: the sum over the middles of ``levels`` equal parts, each at the nearest
    timestep. Each level has one noise eps, which all classes share: differences between classes then vary less.

    A gradient is exact, and takes no memory that grows with levels: each call's part is taken at once, so that the
    backward pass has no network call, and an image keeps ``num_classes`` images. It cannot be differentiated again.

    Args:
        network: predicts the noise; ``num_class_embeds`` is ``num_classes``, or one more with a null class.
        num_classes: K; a classification is K * ``levels`` network calls.
        levels: number of noise levels.
        sigma_max: highest noise level, for images on [-1, 1].
        log_sigma_std: standard deviation of log sigma under p; the released code's, EDM's own is 1.2.
        image_size: see ``Classifier``.

    Raises:
        ConfigError: names the argument.
    """

    stochastic: ClassVar[bool] = True
    network: UNet2DModel

    def __init__(
        self,
        network: UNet2DModel,
        num_classes: int,
        levels: int = 125,
        sigma_max: float = 3.0,
        log_sigma_std: float = 1 / 1.2,
        image_size: int | None = None,
    ) -> None:
        super().__init__(network.to(memory_format=torch.channels_last), (0.5,), (0.5,), image_size)  # pyright: ignore[reportCallIssue]
        config: Any = network.config
        trained, schedule = config.num_class_embeds, LINEAR_VP
        accepted = f"{trained}, or {trained - 1} and a null class, as the denoiser's num_class_embeds says"
        require(num_classes in (trained, trained - 1) and num_classes >= 1, "num_classes", num_classes, accepted)
        require(1 <= levels <= schedule.T, "levels", levels, f"1 to {schedule.T}")
        sigmas = [math.sqrt(1.0 / schedule.alpha_bar(t) - 1.0) for t in range(schedule.T)]
        require(0.0 < sigma_max <= sigmas[-1], "sigma_max", sigma_max, f"above 0, up to {sigmas[-1]:.4g}")
        require(0.0 < log_sigma_std < math.inf, "log_sigma_std", log_sigma_std, "above 0, finite")
        self.schedule, self.num_classes, self.channels = schedule, num_classes, config.in_channels
        self.levels: list[tuple[int, float]] = []
        for middle in ((i + 0.5) / levels * sigma_max for i in range(levels)):
            t = min(range(schedule.T), key=lambda t: abs(sigmas[t] - middle))
            z = (math.log(sigmas[t]) - _LOG_SIGMA_MEAN) / log_sigma_std
            density = math.exp(-(z**2) / 2.0) / (sigmas[t] * log_sigma_std * math.sqrt(2.0 * math.pi))
            self.levels.append((t, density * (1.0 + (sigmas[t] / _SIGMA_DATA) ** 2) * sigma_max / levels))
        self.network_calls = num_classes * levels

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1], one draw a row; without draws, all rows have the same."""
        if draws is None:
            zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
            draws = Draws(0, "classifier", zeros, zeros)
        z = self.normalize(x)
        if not (torch.is_grad_enabled() and z.requires_grad):
            return self.logits(z, draws)
        logits = _WithSlopes.apply(z, self, draws)
        assert isinstance(logits, Tensor)
        return logits

    def logits(self, z: Tensor, draws: Draws, slopes: Tensor | None = None) -> Tensor:
        """Logits (N, K) of z (N, C, H, W) on [-1, 1], and in ``slopes`` (N, K, C, H, W), if given, their gradients."""
        logits = z.new_zeros(len(z), self.num_classes)
        for i, (t, weight) in enumerate(self.levels):
            noise = draws.normal_like(z, "classify", i)
            for y in range(self.num_classes):
                with torch.set_grad_enabled(slopes is not None):
                    leaf = z.detach().requires_grad_(slopes is not None)
                    error = self._error(leaf, noise, t, y)
                    if slopes is not None:
                        slopes[:, y] -= weight * torch.autograd.grad(error.sum(), leaf)[0]
                logits[:, y] -= weight * error.detach()
        return logits

    def check_classes(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """See ``Classifier``; at one noise level."""
        one = copy.copy(self)
        one.levels = self.levels[:1]
        Classifier.check_classes(one, image_shape, num_classes)

    def _error(self, z: Tensor, noise: Tensor, t: int, y: int) -> Tensor:
        """Each row's mean |eps(z(t), t, y) - noise|^2, (N,)."""
        timesteps = torch.full((len(z),), t, device=z.device)
        labels = torch.full_like(timesteps, y)
        with self.autocast():
            z_t = self.schedule.diffuse(z, t, noise)
            predicted = self.network(z_t, timesteps, class_labels=labels, return_dict=False)[0]
        predicted = predicted[:, : self.channels].to(z.dtype).contiguous()
        return ((predicted - noise) ** 2).flatten(1).mean(dim=1)


class _WithSlopes(torch.autograd.Function):
    """Logits whose gradients are taken in the forward pass, one network call at a time."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, classifier: DiffusionClassifier, draws: Draws) -> Tensor:
        slopes = z.new_zeros(len(z), classifier.num_classes, *z.shape[1:])
        logits = classifier.logits(z, draws, slopes)
        ctx.save_for_backward(slopes)
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, :, None, None, None] * slopes).sum(dim=1), None, None


def load_diffusion_classifier(
    folder: str | None, arguments: Mapping[str, Any], image_size: int | None = None, source: str | None = None
) -> DiffusionClassifier:
    """A diffusion classifier around the network of a diffusers folder, frozen and in evaluation mode.

    ``arguments`` are those of ``DiffusionClassifier``. Raises ConfigError for what cannot be used.
    """
    require(folder is not None, "weights", folder, "a diffusers folder of a class-conditional UNet2DModel")
    assert folder is not None
    schema = signature_schema(DiffusionClassifier, supplied=("network", "image_size"))
    settings = to_dict(structure(schema, arguments, "arguments"))
    path = existing_path(folder, "weights", source)
    with reading(folder, "weights", "diffusers UNet2DModel with classes"):
        network = load_conditional(str(path))
    try:
        classifier = DiffusionClassifier(network, **settings, image_size=image_size)
    except ConfigError as error:
        raise error.within("arguments") from None
    return classifier.eval().requires_grad_(False)
