"""FreqPure (Pei et al. 2025): DDPM that keeps the image's low-frequency amplitude, and its phase within bounds."""

from typing import ClassVar

import torch
from torch import Tensor

from hetpure.errors import require
from hetpure.models.denoisers import Denoiser
from hetpure.purification.sampling import RoundsPurifier, Sampler, Step
from hetpure.schedule import CLEAN


class FrequencyPurifier(RoundsPurifier):
    """At each step, x(0|t) gets the image's amplitude, and nearly its phase, at low frequencies.

    With A, phi of the image and A0, phi0 of the prediction x(0|t), clamped: A0 <- A where |f| <= ``amplitude_cut``,
    phi0 <- clip(phi0, phi - delta, phi + delta) where |f| <= ``phase_cut`` (the difference of angles taken around the
    circle), and x(0|t) <- clip(IDFT(A0 e^(i phi0))). Each round takes the spectra of the result of the last one.

    Preset ``paper`` takes the spectra of the image itself. ``released`` is the authors' code: it noises the image to
    ``reference`` and takes the spectra of its one-step prediction, computed anew at each step, and it replaces the
    phase before it clips, so that its delta is 0.

    Args:
        denoiser, eta: see ``SamplingPurifier``.
        t: each round's noise level, fraction of T; by default those of the released CIFAR-10 script.
        network_calls: each round's network calls; a ``reference`` above 0 doubles them.
        amplitude_cut: radius in the centred spectrum, in frequency steps.
        phase_cut: the same for phases.
        delta: largest difference of a phase from the image's, in radians.
        reference: level, fraction of T, from which the image whose spectra are kept is predicted in one step; 0 (no
            noise) is the image itself.
    """

    PRESETS: ClassVar[dict[str, dict]] = {"paper": {}, "released": {"delta": 0.0, "reference": 0.051}}

    def __init__(
        self,
        denoiser: Denoiser,
        t: list[float] | None = None,
        network_calls: list[int] | None = None,
        eta: float = 1.0,
        amplitude_cut: float = 3.0,
        phase_cut: float = 3.0,
        delta: float = 0.3,
        reference: float = 0.0,
    ) -> None:
        t = [0.02] * 5 + [0.05] * 5 if t is None else t
        super().__init__(denoiser, t, [5] * len(t) if network_calls is None else network_calls, eta)
        for name, value in (("amplitude_cut", amplitude_cut), ("phase_cut", phase_cut), ("delta", delta)):
            require(value >= 0.0, name, value, "0 or more")
        accepted = f"0 or more and below 1, a fraction of the schedule's {self.schedule.T} timesteps"
        require(0.0 <= reference < 1.0, "reference", reference, accepted)
        self.amplitude_cut, self.phase_cut, self.delta = amplitude_cut, phase_cut, delta
        self.reference = round(reference * self.schedule.T) - 1  # CLEAN for a reference without noise
        self.network_calls *= 1 if self.reference == CLEAN else 2

    def make_step(self, image: Tensor, x0: Tensor, sampler: Sampler) -> Step:
        """See ``SamplingPurifier``: each step starts from the corrected x(0|t), with the predicted noise unchanged."""

        def step(x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
            kept = x0 if self.reference == CLEAN else self._predicted(x0, sampler, s)
            x0_t = self.exchange(self.schedule.predict_x0(x, t, eps), kept)
            return sampler.step(self.schedule.diffuse(x0_t, t, eps), eps, t, s)

        return step

    def exchange(self, x0: Tensor, image: Tensor) -> Tensor:
        """The prediction x0 with the low frequencies of the image, (N, C, H, W), clamped to [-1, 1]."""
        # On [0, 1], as in the released code: on [-1, 1] a mean near 0 would make the phase at f = 0 arbitrary.
        own, given = (torch.fft.fft2(((z + 1.0) / 2.0).clamp(0.0, 1.0)) for z in (x0, image))
        radius = self._radius(image)
        amplitude = torch.where(radius <= self.amplitude_cut, given.abs(), own.abs())
        turned = own * given.conj()
        difference = torch.atan2(turned.imag, turned.real).clamp(-self.delta, self.delta)
        near = _phase(given) * torch.complex(difference.cos(), difference.sin())
        phase = torch.where(radius <= self.phase_cut, near, _phase(own))
        return (2.0 * torch.fft.ifft2(amplitude * phase).real - 1.0).clamp(-1.0, 1.0)

    def _predicted(self, image: Tensor, sampler: Sampler, s: int) -> Tensor:
        """The one-step prediction of the image from the reference level; its noise is keyed by the step's s."""
        x = self.schedule.diffuse(image, self.reference, sampler.draws.normal_like(image, "reference", s))
        return self.schedule.predict_x0(x, self.reference, self.denoiser(x, self.reference))

    def _radius(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows = torch.fft.fftfreq(height, 1.0 / height, device=image.device, dtype=image.dtype)
        columns = torch.fft.fftfreq(width, 1.0 / width, device=image.device, dtype=image.dtype)
        return (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()


def _phase(z: Tensor) -> Tensor:
    """Z / |z|; 1, without a gradient, where z is 0."""
    size = z.abs()
    zero = size == 0.0
    return torch.where(zero, torch.ones_like(z), z / torch.where(zero, torch.ones_like(size), size))
