"""FreqPure (Pei et al. 2025): DDPM that keeps the input's low-frequency amplitude, and its phase within bounds."""

import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.purification.rounds import RoundsPurifier


class FrequencyPurifier(RoundsPurifier):
    """At each step, x(0|t) gets the input's amplitude and nearly its phase at low frequencies; then the step goes on.

    With A, phi of the input and A0, phi0 of the prediction x(0|t): A0 <- A where |f| <= ``amplitude_cut``,
    phi0 <- clip(phi0, phi - delta, phi + delta) where |f| <= ``phase_cut`` (the difference of angles taken around the
    circle), and x(0|t) <- clip(IDFT(A0 e^(i phi0))). The released code also rounds both images to 8 bits, which leaves
    an attacker no gradient; that is left out. It replaces the phase before it clips, which makes delta idle; the
    paper's projection is done here.

    Args:
        denoiser: the noise predictor.
        t: each round's noise level, fraction of T (the released CIFAR-10 script's).
        steps: each round's network calls.
        eta: 0 for DDIM steps, 1 for DDPM.
        amplitude_cut: radius in the centred spectrum, in frequency steps.
        phase_cut: the same for phases.
        delta: how far a phase may be from the input's, radians.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        t: list[float] | None = None,
        steps: list[int] | None = None,
        eta: float = 1.0,
        amplitude_cut: float = 3.0,
        phase_cut: float = 3.0,
        delta: float = 0.3,
    ) -> None:
        t = [0.02] * 5 + [0.05] * 5 if t is None else t
        super().__init__(denoiser, t, [5] * len(t) if steps is None else steps, eta)
        for name, value in (("amplitude_cut", amplitude_cut), ("phase_cut", phase_cut), ("delta", delta)):
            if not value >= 0.0:
                raise ValueError(f"{name} = {value} must be at least 0")
        self.amplitude_cut, self.phase_cut, self.delta = amplitude_cut, phase_cut, delta

    def step(self, x: Tensor, eps: Tensor, t: int, s: int, noise: Tensor | None, image: Tensor) -> Tensor:
        """See ``RoundsPurifier``: the step from the corrected x(0|t), with the predicted noise as it is."""
        x0 = self.exchange(self.schedule.predict_x0(x, t, eps), image)
        # The same step of a point that has this x(0|t) and this noise.
        return self.schedule.ddim_step(self.schedule.diffuse(x0, t, eps), eps, t, s, self.eta, noise)

    def exchange(self, x0: Tensor, image: Tensor) -> Tensor:
        """The prediction with the image's low frequencies, (N, C, H, W), clamped to [-1, 1]."""
        # On [0, 1], where the released code takes its spectra (a mean of 0 would make the phase at f = 0 a coin's).
        own, given = (torch.fft.fft2((z + 1.0) / 2.0) for z in (x0, image))
        radius = self._radius(image)
        amplitude = torch.where(radius <= self.amplitude_cut, given.abs(), own.abs())
        turned = own * given.conj()
        difference = torch.atan2(turned.imag, turned.real).clamp(-self.delta, self.delta)
        near = _phase(given) * torch.complex(difference.cos(), difference.sin())
        phase = torch.where(radius <= self.phase_cut, near, _phase(own))
        return (2.0 * torch.fft.ifft2(amplitude * phase).real - 1.0).clamp(-1.0, 1.0)

    def _radius(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows = torch.fft.fftfreq(height, 1.0 / height, device=image.device, dtype=image.dtype)
        columns = torch.fft.fftfreq(width, 1.0 / width, device=image.device, dtype=image.dtype)
        return (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()


def _phase(z: Tensor) -> Tensor:
    """Z / |z|, 1 without a gradient where z is 0."""
    size = z.abs()
    nothing = size == 0.0
    return torch.where(nothing, torch.ones_like(z), z / torch.where(nothing, torch.ones_like(size), size))
