"""FreqPure (Pei et al. 2025): DDPM that keeps the image's low-frequency amplitude, and its phase within bounds."""

import itertools
from typing import ClassVar

import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.rounds import RoundsPurifier
from hetpure.schedule import CLEAN


class FrequencyPurifier(RoundsPurifier):
    """At each step, x(0|t) gets the image's amplitude and nearly its phase at low frequencies; then the step goes on.

    With A, phi of the image and A0, phi0 of the prediction x(0|t), clamped: A0 <- A where |f| <= ``amplitude_cut``,
    phi0 <- clip(phi0, phi - delta, phi + delta) where |f| <= ``phase_cut`` (the difference of angles taken around the
    circle), and x(0|t) <- clip(IDFT(A0 e^(i phi0))). Each round does this to the last one's result.

    Preset ``paper`` takes the spectra of the image itself. ``released`` is the code that holds the rounds: it noises
    the image to ``reference`` and takes the spectra of its one-step prediction, made afresh at each step, and it
    replaces the phase before it clips, so that its delta is 0.

    Args:
        denoiser: the noise predictor.
        t: each round's noise level, fraction of T (the released CIFAR-10 script's).
        steps: each round's network calls, of which a ``reference`` above 0 doubles the number.
        eta: 0 for DDIM steps, 1 for DDPM.
        amplitude_cut: radius in the centred spectrum, in frequency steps.
        phase_cut: the same for phases.
        delta: how far a phase may be from the image's, radians.
        reference: level, fraction of T, from which the image whose spectra are kept is predicted in one step; 0, no
            noise, is the image itself.

    Raises:
        ValueError: names the argument that cannot be.
    """

    PRESETS: ClassVar[dict[str, dict]] = {"paper": {}, "released": {"delta": 0.0, "reference": 0.051}}

    def __init__(
        self,
        denoiser: Denoiser,
        t: list[float] | None = None,
        steps: list[int] | None = None,
        eta: float = 1.0,
        amplitude_cut: float = 3.0,
        phase_cut: float = 3.0,
        delta: float = 0.3,
        reference: float = 0.0,
    ) -> None:
        t = [0.02] * 5 + [0.05] * 5 if t is None else t
        super().__init__(denoiser, t, [5] * len(t) if steps is None else steps, eta)
        for name, value in (("amplitude_cut", amplitude_cut), ("phase_cut", phase_cut), ("delta", delta)):
            if not value >= 0.0:
                raise ValueError(f"{name} = {value} must be at least 0")
        if not 0.0 <= reference < 1.0:
            raise ValueError(f"reference = {reference} must lie in [0, 1): a fraction of the schedule's T timesteps")
        self.amplitude_cut, self.phase_cut, self.delta = amplitude_cut, phase_cut, delta
        self.reference = round(reference * self.schedule.T) - 1  # CLEAN where there is no noise

    @property
    def network_calls(self) -> int:
        return super().network_calls * (1 if self.reference == CLEAN else 2)

    def trajectory(self, image: Tensor, draws: Draws) -> list[Tensor]:
        """See ``RoundsPurifier``: each step from the corrected x(0|t), with the predicted noise as it is."""
        results, T, x0 = [], self.schedule.T, image
        for number, timesteps in enumerate(self.grids):
            start, first = x0, timesteps[0]
            x = self.schedule.diffuse(start, first, draws.normal_like(start, "diffuse", first + number * T))
            for t, s in itertools.pairwise(timesteps):
                eps = self.denoiser(x, t)
                kept = self._kept(start, draws, s + number * T)
                x0 = self.exchange(self.schedule.predict_x0(x, t, eps), kept)
                noise = draws.normal_like(x, "step", s + number * T) if self.schedule.sigma(t, s, self.eta) else None
                # The same step of a point that has this x(0|t) and this noise.
                x = self.schedule.ddim_step(self.schedule.diffuse(x0, t, eps), eps, t, s, self.eta, noise)
            x0 = x
            results.append(x0)
        return results

    def exchange(self, x0: Tensor, image: Tensor) -> Tensor:
        """The prediction with the image's low frequencies, (N, C, H, W), clamped to [-1, 1]."""
        # On [0, 1], where the released code takes its spectra (a mean of 0 would make the phase at f = 0 a coin's).
        own, given = (torch.fft.fft2(((z + 1.0) / 2.0).clamp(0.0, 1.0)) for z in (x0, image))
        radius = self._radius(image)
        amplitude = torch.where(radius <= self.amplitude_cut, given.abs(), own.abs())
        turned = own * given.conj()
        difference = torch.atan2(turned.imag, turned.real).clamp(-self.delta, self.delta)
        near = _phase(given) * torch.complex(difference.cos(), difference.sin())
        phase = torch.where(radius <= self.phase_cut, near, _phase(own))
        return (2.0 * torch.fft.ifft2(amplitude * phase).real - 1.0).clamp(-1.0, 1.0)

    def _kept(self, image: Tensor, draws: Draws, step: int) -> Tensor:
        """The image whose low frequencies are kept."""
        if self.reference == CLEAN:
            return image
        noise = draws.normal_like(image, "reference", step)
        x = self.schedule.diffuse(image, self.reference, noise)
        return self.schedule.predict_x0(x, self.reference, self.denoiser(x, self.reference))

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
