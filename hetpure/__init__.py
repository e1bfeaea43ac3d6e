"""hetpure: diffusion-based adversarial purification with heterogeneous noise, under attacks that know it."""

__version__ = "0.1.0"
