"""FreqPure: rounds of DDPM whose predictions get the image's low frequencies."""

import math

import numpy as np
import pytest
import torch

from hetpure.purification.freqpure import FrequencyPurifier
from hetpure.purification.registry import complete_settings
from tests.toys import ToyDenoiser, abar, images, rows


def test_freqpure_exchanges_low_frequencies() -> None:
    """The centred spectra as in the paper, amplitudes replaced and phases clipped, by numpy: to 1e-10."""
    a, b = (2 * images(1, 3, dtype=torch.float64, seed=s) - 1 for s in (5, 6))
    found = FrequencyPurifier(ToyDenoiser(3), amplitude_cut=2.0, phase_cut=3.0, delta=0.3).exchange(a, b)
    v, u = np.meshgrid(np.arange(-4, 4), np.arange(-4, 4))
    radius = np.sqrt(u**2 + v**2)
    for c in range(3):
        own, given = (np.fft.fftshift(np.fft.fft2(((z[0, c] + 1) / 2).numpy())) for z in (a, b))
        amplitude = np.where(radius <= 2.0, np.abs(given), np.abs(own))
        off = (np.angle(own) - np.angle(given) + np.pi) % (2 * np.pi) - np.pi
        phase = np.where(radius <= 3.0, np.angle(given) + np.clip(off, -0.3, 0.3), np.angle(own))
        image = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase)))
        assert np.abs(image.imag).max() < 1e-10
        np.testing.assert_allclose(found[0, c].numpy(), np.clip(2 * image.real - 1, -1, 1), atol=1e-10)


@pytest.mark.parametrize("reference", [0.0, 0.051])
def test_freqpure_is_ddpm_with_exchanged_predictions(reference: float) -> None:
    """Two rounds written out, each keeping its own start or that one's prediction from timestep 50: to 1e-10."""
    x, draws, denoiser = images(2, 3, dtype=torch.float64), rows(2), ToyDenoiser(3)
    purifier = FrequencyPurifier(denoiser, [0.02, 0.06], [2, 3], delta=0.1, reference=reference)
    y = 2 * x - 1
    for number, (n, count) in enumerate([(20, 2), (60, 3)]):
        start, seq = y, [i - 1 for i in range(n // count, n + 1, n // count)]
        noise = draws.normal_like(x, "diffuse", n - 1 + 1000 * number)
        y = math.sqrt(abar(n - 1)) * start + math.sqrt(1 - abar(n - 1)) * noise
        for i, j in zip(reversed(seq), reversed([-1, *seq[:-1]]), strict=True):
            kept = start
            if reference:
                noisy = math.sqrt(abar(50)) * start
                noisy = noisy + math.sqrt(1 - abar(50)) * draws.normal_like(x, "reference", j + 1000 * number)
                kept = (noisy - math.sqrt(1 - abar(50)) * denoiser(noisy, 50)) / math.sqrt(abar(50))
            e = denoiser(y, i)
            x0 = purifier.exchange((y - math.sqrt(1 - abar(i)) * e) / math.sqrt(abar(i)), kept)
            c1 = math.sqrt((1 - abar(i) / abar(j)) * (1 - abar(j)) / (1 - abar(i)))
            y = math.sqrt(abar(j)) * x0 + math.sqrt(1 - abar(j) - c1**2) * e
            y = y + (c1 * draws.normal_like(x, "step", j + 1000 * number) if c1 else 0.0)
    torch.testing.assert_close(purifier(x, draws), ((y + 1) / 2).clamp(0, 1), rtol=1e-10, atol=1e-10)


def test_freqpure_takes_spectra_of_what_a_picture_can_be() -> None:
    """Predictions beyond [-1, 1] are clamped before their spectra are taken; the released preset is the code's."""
    a, b = (2 * images(1, 3, dtype=torch.float64, seed=s) - 1 for s in (5, 6))
    purifier = FrequencyPurifier(ToyDenoiser(3))
    torch.testing.assert_close(purifier.exchange(3 * a, b), purifier.exchange((3 * a).clamp(-1, 1), b))
    released = complete_settings({"name": "freqpure", "preset": "released"})
    assert (released["delta"], released["reference"]) == (0.0, 0.051)
    assert FrequencyPurifier(ToyDenoiser(3), reference=0.0506).reference == 50


def test_freqpure_leaves_what_agrees_with_the_image() -> None:
    """And its defaults are the rounds of the released CIFAR-10 script."""
    x = 2 * images(2, 3, dtype=torch.float64) - 1
    torch.testing.assert_close(FrequencyPurifier(ToyDenoiser(3)).exchange(x, x), x)
    purifier = FrequencyPurifier(ToyDenoiser(3))
    assert [grid[0] + 1 for grid in purifier.grids] == [20] * 5 + [50] * 5 and purifier.network_calls == 50
