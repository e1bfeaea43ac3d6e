"""Contrastive guidance (Bai et al. 2024): DDPM whose noise is shifted along the gradient of an InfoNCE loss."""

import itertools
import math

import torch
from torch import Tensor

from hetpure.models.classifiers import Classifier, is_compiled
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.infonce import info_nce
from hetpure.purification.steps import check_eta, check_level, walk


class ContrastivePurifier(Purifier):
    """Noise to t, then steps with eps(x(t)) + ``scale`` grad L, L = InfoNCE(f(x(t)); f(x(t')), f(n_1), .., f(n_K)).

    f are the classifier's logits, t' the step before (the first step, which has none, is not guided). In the released
    code the negatives are the other images of the batch, which would let neighbours play a part; n_1 .. n_K are
    x(t') with its patches shuffled by keyed draws instead: the image's own pixels without its shape. The gradient is
    taken at x(t) and itself differentiated: an attacker's gradient is exact.

    Args:
        denoiser: the noise predictor.
        classifier: f; asked at (x(t) + 1) / 2, not clamped.
        t: noise level, fraction of T.
        steps: grid points of the whole range (``walk``).
        eta: 1 for DDPM steps, 0 for DDIM.
        scale: strength. The released 500 multiplies a mean over a batch of 64; the loss here is one image's, and 8 is
            about the same.
        negatives: K.
        patches: a side of the image, in patches to shuffle.
        temperature: of the loss.
        tau_plus: see ``info_nce``.
        beta: see ``info_nce``.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: Classifier,
        t: float = 0.1,
        steps: int = 1000,
        eta: float = 1.0,
        scale: float = 8.0,
        negatives: int = 4,
        patches: int = 4,
        temperature: float = 1.0,
        tau_plus: float = 0.1,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        check_level("t", t)
        check_eta(eta)
        if not 0.0 <= scale < math.inf:
            raise ValueError(f"scale = {scale} must be at least 0 and finite")
        if negatives < 1:
            raise ValueError(f"negatives = {negatives} must be at least 1")
        if patches < 2:
            raise ValueError(f"patches = {patches} must be at least 2")
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature = {temperature} must be above 0 and finite")
        if not 0.0 <= tau_plus < 1.0:
            raise ValueError(f"tau_plus = {tau_plus} must lie in [0, 1)")
        if not 0.0 <= beta < math.inf:
            raise ValueError(f"beta = {beta} must be at least 0 and finite")
        self.denoiser, self.classifier, self.schedule, self.eta = denoiser, classifier, denoiser.schedule, eta
        self.timesteps = walk(self.schedule, t, steps)
        self.scale, self.negatives, self.patches = scale, negatives, patches
        self.temperature, self.tau_plus, self.beta = temperature, tau_plus, beta

    @property
    def network_calls(self) -> int:
        return len(self.timesteps) - 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        """See ``Purifier``.

        Raises:
            ValueError: where the image cannot be cut into ``patches``.
        """
        if x.shape[-2] % self.patches or x.shape[-1] % self.patches:
            raise ValueError(f"patches = {self.patches} must divide both sides of {tuple(x.shape[-2:])} images")
        x_t, before = self._diffuse(to_signed(x), draws), None
        for t, s in itertools.pairwise(self.timesteps):
            eps = self.denoiser(x_t, t)
            if before is not None and self.scale > 0.0:
                eps = eps + self.scale * self._gradient(x_t, before, self.shuffled(before, draws, t))
            noise = draws.normal_like(x_t, "step", s) if self.schedule.sigma(t, s, self.eta) > 0.0 else None
            before, x_t = x_t, self.schedule.ddim_step(x_t, eps, t, s, self.eta, noise)
        return to_unit(x_t)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """See ``Purifier``: the first noise, and a negative of it."""
        first = self._diffuse(to_signed(x), draws)
        negative = self.shuffled(first, draws, self.timesteps[1])[:, 0]
        return {"first noise": to_unit(first), "a negative": to_unit(negative), **super().views(x, draws)}

    def shuffled(self, x: Tensor, draws: Draws, t: int) -> Tensor:
        """(N, K, C, H, W): each image (N, C, H, W) with its patches in K other orders, drawn for timestep t."""
        side = self.patches
        patches = x.unflatten(2, (side, -1)).unflatten(4, (side, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        order = draws.uniform("shuffle", t, (self.negatives, side**2), torch.float64).argsort(-1)
        mixed = patches[torch.arange(len(x), device=x.device)[:, None, None], order]
        return mixed.unflatten(2, (side, side)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def _diffuse(self, image: Tensor, draws: Draws) -> Tensor:
        first = self.timesteps[0]
        return self.schedule.diffuse(image, first, draws.normal_like(image, "diffuse", first))

    def _embed(self, x: Tensor) -> Tensor:
        x, network = (x + 1.0) / 2.0, self.classifier.network
        if not is_compiled(network):
            return self.classifier(x)
        # What torch.compile made of the network has no second derivative.
        with self.classifier.autocast():
            return network.forward(self.classifier.normalize(x)).to(x.dtype)

    def _gradient(self, x: Tensor, before: Tensor, negatives: Tensor) -> Tensor:
        """Of each image's loss at x, differentiable in all three."""
        outer = torch.is_grad_enabled()
        positive = self._embed(before)
        others = self._embed(negatives.flatten(0, 1)).unflatten(0, negatives.shape[:2])
        with torch.enable_grad():
            at = x if outer and x.requires_grad else x.detach().requires_grad_()
            loss = info_nce(self._embed(at), positive, others, self.temperature, self.tau_plus, self.beta)
            (gradient,) = torch.autograd.grad(loss.sum(), at, create_graph=outer)
        return gradient
