"""hetpure: diffusion-based adversarial purification with heterogeneous noise, evaluated under adaptive attacks."""

from typing import TYPE_CHECKING

from hetpure.lazy import lazy_names

if TYPE_CHECKING:
    from hetpure.api import Evaluation, evaluate
    from hetpure.attacks import PGD, AutoAttack
    from hetpure.data import ImageDataModule
    from hetpure.defense.classifier import PurifiedClassifier
    from hetpure.defense.fresh_draws import FreshDraws
    from hetpure.errors import ConfigError, RunError
    from hetpure.models.classifiers import Classifier, build_classifier
    from hetpure.models.denoisers import Denoiser, build_denoiser
    from hetpure.purification.heterogeneous import HeterogeneousPurifier
    from hetpure.purification.uniform import UniformPurifier

__version__ = "0.6.0"

__all__ = [
    "PGD", "AutoAttack", "Classifier", "ConfigError", "Denoiser", "Evaluation", "FreshDraws",
    "HeterogeneousPurifier", "ImageDataModule", "PurifiedClassifier", "RunError", "UniformPurifier", "__version__",
    "build_classifier", "build_denoiser", "evaluate",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__, __file__)
