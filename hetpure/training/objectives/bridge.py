"""The adversarial diffusion bridge model, ADBM (Li et al. 2025): from a diffused adversarial image to the clean one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hetpure.errors import require
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import LINEAR_VP
from hetpure.noise import Draws
from hetpure.schedule import Schedule
from hetpure.training.objectives.adversary import check_ascent, evaluating, sign_ascent
from hetpure.training.objectives.base import Batch, predict, scaled
from hetpure.training.objectives.noise import NoisePredictor


class BridgeObjective(NoisePredictor):
    """Noise prediction along a bridge that starts at a diffused adversarial image and ends at the clean image x(0).

    With the adversarial perturbation d (on [-1, 1]-scaled images), abar_n at the bridge's start n, and
    c_t = abar_n (1 - abar_t) / ((1 - abar_n) sqrt(abar_t)):

        x_d(t) = sqrt(abar_t) x(0) + sqrt(1 - abar_t) eps + c_t d,
        loss   = |eps + c_t / sqrt(1 - abar_t) d - F(x_d(t); t)|^2.

    At t = n, c_n = sqrt(abar_n): x_d(n) is the adversarial image, diffused. Towards t = 0 the perturbation vanishes.
    The target is what leads from x_d(t) back to x(0) at each t, so the network remains a denoiser. n + 1 is drawn for
    each batch from [t_low, t_high] T, t for each image from 0..n. The perturbation is found by PGD through F's one-step
    prediction of x(0) and the classifier, at the t and eps of the loss.

    Args:
        classifier: what the perturbations are to deceive.
        schedule: of the noise.
        t_low: least start of a bridge, fraction of T.
        t_high: highest start.
        eps: Linf radius of the perturbation, for images in [0, 1].
        step_size: of a PGD step.
        pgd_steps: from a uniformly random start; each is a call of F and of the classifier, with gradients.
    """

    def __init__(
        self,
        classifier: Classifier,
        schedule: Schedule = LINEAR_VP,
        t_low: float = 0.1,
        t_high: float = 0.2,
        eps: float = 8 / 255,
        step_size: float = 8 / 255,
        pgd_steps: int = 3,
    ) -> None:
        super().__init__(schedule)
        require(0.0 < t_high < 1.0, "t_high", t_high, "above 0 and below 1, a fraction of T")
        in_order = t_low * schedule.T >= 1.0 and t_low <= t_high
        require(in_order, "t_low", t_low, f"{1 / schedule.T:g} to t_high, which is {t_high:g}", "t_high")
        check_ascent(eps, step_size, pgd_steps)
        self.classifier, self.eps, self.step_size, self.pgd_steps = classifier, eps, step_size, pgd_steps
        self.lowest, self.labels = round(t_low * schedule.T), round(t_high * schedule.T)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        image = batch["image"]
        length = int(torch.randint(self.lowest, self.labels + 1, (), device=image.device))
        t = (torch.rand(len(image), device=image.device) * length).long().clamp_(max=length - 1)
        noise, offset = torch.randn_like(image), 2 * torch.rand_like(image) - 1
        x, target = self._bridge(network, batch, t, length - 1, noise, offset)
        return mse_loss(predict(network, x, t), target)

    def errors(self, network: nn.Module, batch: Batch, t: Tensor, draws: Draws, step: int) -> Tensor:
        """See ``Objective``; all bridges start at t_high."""
        noise = draws.normal_like(batch["image"], "noise", step)
        offset = 2 * draws.uniform("offset", step, noise.shape[1:]) - 1
        x, target = self._bridge(network, batch, t, self.labels - 1, noise, offset)
        return mse_loss(predict(network, x, t), target, reduction="none").flatten(1).mean(1)

    def _bridge(
        self, network: nn.Module, batch: Batch, t: Tensor, n: int, noise: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_d(t) and what the network is to predict of it."""
        classifier = self.classifier.to(t.device)
        with torch.inference_mode(False), evaluating(network):
            # Copies: validation's own tensors cannot take part in a gradient.
            image, label, t, noise = (each.clone() for each in (batch["image"], batch["label"], t, noise))
            at, abar = self.point(scaled(image), t, n, noise), self.alpha_bars(t)

            def logits(adversarial: Tensor) -> Tensor:
                x, _ = at(2 * (adversarial - image))
                return classifier(((x - (1 - abar).sqrt() * predict(network, x, t)) / abar.sqrt() + 1) / 2)

            found = sign_ascent(logits, image, label, offset, self.eps, self.step_size, self.pgd_steps)
            return at(2 * (found - image))

    def point(self, x0: Tensor, t: Tensor, n: int, noise: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """x_d(t) and the target, as functions of the perturbation d; x0, noise and d are (B, C, H, W)."""
        abar, start = self.alpha_bars(t), self.schedule.alpha_bar(n)
        coefficient = start / (1 - start) * (1 - abar) / abar.sqrt()

        def at(d: Tensor) -> tuple[Tensor, Tensor]:
            return self.diffuse(x0, t, noise) + coefficient * d, noise + coefficient / (1 - abar).sqrt() * d

        return at
