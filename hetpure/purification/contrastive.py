"""Contrastive guidance (Bai et al. 2024): DDPM whose noise is shifted along the gradient of an InfoNCE loss."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetpure.errors import require
from hetpure.models.classifiers import Classifier, is_compiled
from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import input_gradient, to_signed, to_unit
from hetpure.purification.sampling import Sampler, SamplingPurifier, Step, check_level, timestep_grid


class ContrastivePurifier(SamplingPurifier):
    """Steps with eps(x(t)) + ``scale`` grad L, L = InfoNCE(f(x(t)); f(x(t')), f(n_1), .., f(n_K)).

    f are the classifier's logits, t' is the timestep before t; the first step has none and is not guided. The released
    code's negatives are the other images of the batch, so that a result would depend on its neighbours. Here n_1 .. n_K
    are x(t') with its patches shuffled by keyed draws: the image's own pixels without its shape. The gradient is taken
    at x(t) and is itself differentiated, so an attacker's gradient is exact.

    Args:
        denoiser, t, grid_size, eta: see ``SamplingPurifier``.
        classifier: f; applied to (x(t) + 1) / 2, not clamped.
        scale: guidance strength. The released 500 multiplies a mean over a batch of 64. Here the loss is one image's,
            and 8 is about the same strength.
        negatives: K.
        patches: patches to shuffle along each side of the image.
        temperature: of the loss.
        tau_plus: see ``info_nce``.
        beta: see ``info_nce``.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: Classifier,
        t: float = 0.1,
        grid_size: int = 1000,
        eta: float = 1.0,
        scale: float = 8.0,
        negatives: int = 4,
        patches: int = 4,
        temperature: float = 1.0,
        tau_plus: float = 0.1,
        beta: float = 1.0,
    ) -> None:
        check_level(denoiser.schedule, t)
        super().__init__(denoiser, [timestep_grid(denoiser.schedule, t, grid_size=grid_size)], eta)
        require(0.0 <= scale < math.inf, "scale", scale, "0 or more, finite")
        require(negatives >= 1, "negatives", negatives, "1 or more")
        require(patches >= 2, "patches", patches, "2 or more")
        require(0.0 < temperature < math.inf, "temperature", temperature, "above 0, finite")
        require(0.0 <= tau_plus < 1.0, "tau_plus", tau_plus, "0 or more and below 1")
        require(0.0 <= beta < math.inf, "beta", beta, "0 or more, finite")
        needed = "a purifier that does not differentiate the classifier twice, which a diffusion classifier cannot be"
        require(not classifier.network_calls, "name", "contrastive", needed)
        self.classifier, self.scale, self.negatives, self.patches = classifier, scale, negatives, patches
        self.temperature, self.tau_plus, self.beta = temperature, tau_plus, beta

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """See ``Purifier``: nothing, but a ConfigError for images that cannot be cut into patches."""
        height, width = x.shape[-2:]
        divides = height % self.patches == 0 and width % self.patches == 0
        require(divides, "patches", self.patches, f"a divisor of both sides of the {height}x{width} images")
        return ()

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        before: Tensor | None = None

        def step(x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
            nonlocal before
            if before is not None and self.scale > 0.0:
                eps = eps + self.scale * self._gradient(x, before, self.shuffled(before, sampler.draws, t))
            before = x
            return sampler.step(x, eps, t, s)

        return step

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        grid, views = self.grids[0], super().views(x, draws)
        noisy = self.start(to_signed(x), grid, Sampler(self.denoiser, draws))
        negative = self.shuffled(noisy, draws, grid[1])[:, 0]
        return {self.NOISE_VIEW: views[self.NOISE_VIEW], "a negative": to_unit(negative), "purified": views["purified"]}

    def shuffled(self, x: Tensor, draws: Draws, t: int) -> Tensor:
        """(N, K, C, H, W): each image (N, C, H, W) with its patches in K other orders, drawn for timestep t."""
        side = self.patches
        patches = x.unflatten(2, (side, -1)).unflatten(4, (side, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        order = draws.uniform("shuffle", t, (self.negatives, side**2), torch.float64).argsort(-1)
        mixed = patches[torch.arange(len(x), device=x.device)[:, None, None], order]
        return mixed.unflatten(2, (side, side)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def _embed(self, x: Tensor) -> Tensor:
        x, network = (x + 1.0) / 2.0, self.classifier.network
        if not is_compiled(network):
            return self.classifier(x)
        # What torch.compile made of the network has no second derivative.
        with self.classifier.autocast():
            return network.forward(self.classifier.normalize(x)).to(x.dtype)

    def _gradient(self, x: Tensor, before: Tensor, negatives: Tensor) -> Tensor:
        """Of each image's loss at x, differentiable in all three."""
        positive = self._embed(before)
        others = self._embed(negatives.flatten(0, 1)).unflatten(0, negatives.shape[:2])
        settings = self.temperature, self.tau_plus, self.beta
        return input_gradient(lambda at: info_nce(self._embed(at), positive, others, *settings), x)


def info_nce(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float, tau_plus: float, beta: float
) -> Tensor:
    """InfoNCE with debiased, hardness-weighted negatives (Robinson et al. 2021): -log(p / (p + G)), (N,).

    p = exp(cos(anchor, positive) / T), n_k = exp(cos(anchor, negative k) / T),
    G = max((sum n_k^(1 + beta) / mean n_k^beta - tau_plus K p) / (1 - tau_plus), K exp(-1 / T)).
    Anchor and positive are (N, D), negatives (N, K, D), T is the temperature, tau_plus the share of negatives that are
    in truth positives, beta the weight of hard negatives: with 0 (and tau_plus 0) G is the plain sum over negatives.
    """
    near = (cosine_similarity(anchor, positive, dim=-1) / temperature).exp()
    far = (cosine_similarity(anchor[:, None], negatives, dim=-1) / temperature).exp()
    count, weight = far.shape[1], far**beta
    hard = (weight * far).sum(1) / weight.mean(1)
    against = ((hard - tau_plus * count * near) / (1.0 - tau_plus)).clamp_min(count * math.exp(-1.0 / temperature))
    return torch.log1p(against / near)
