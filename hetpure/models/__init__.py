"""Networks of others behind this project's interfaces."""

from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser, Recomputed, build_denoiser

__all__ = ["Classifier", "Denoiser", "DiffusersDenoiser", "Recomputed", "build_classifier", "build_denoiser"]
