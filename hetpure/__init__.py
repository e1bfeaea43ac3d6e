"""hetpure: diffusion-based adversarial purification with heterogeneous noise, under attacks that know it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetpure.attacks import PGD, AutoAttack
    from hetpure.data import ImageDataModule
    from hetpure.defense.classifier import PurifiedClassifier
    from hetpure.errors import ConfigError, RunError
    from hetpure.evaluation.api import Evaluation, evaluate
    from hetpure.models.classifiers import Classifier, build_classifier
    from hetpure.models.denoisers import Denoiser, build_denoiser
    from hetpure.purification.heterogeneous import HeterogeneousPurifier
    from hetpure.purification.uniform import UniformPurifier

__version__ = "0.1.0"

__all__ = [
    "PGD",
    "AutoAttack",
    "Classifier",
    "ConfigError",
    "Denoiser",
    "Evaluation",
    "HeterogeneousPurifier",
    "ImageDataModule",
    "PurifiedClassifier",
    "RunError",
    "UniformPurifier",
    "__version__",
    "build_classifier",
    "build_denoiser",
    "evaluate",
]

_MODULES = {
    "PGD": "attacks.pgd",
    "AutoAttack": "attacks.autoattack",
    "Classifier": "models.classifiers",
    "ConfigError": "errors",
    "Denoiser": "models.denoisers",
    "Evaluation": "evaluation.api",
    "HeterogeneousPurifier": "purification.heterogeneous",
    "ImageDataModule": "data.datamodule",
    "PurifiedClassifier": "defense.classifier",
    "RunError": "errors",
    "UniformPurifier": "purification.uniform",
    "build_classifier": "models.classifiers",
    "build_denoiser": "models.denoisers",
    "evaluate": "evaluation.api",
}
"""Where each public name is: imported when it is first used, so that ``import hetpure`` and the command are quick."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hetpure' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"hetpure.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
