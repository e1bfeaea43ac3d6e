"""Training: the diffusion model and the classifier, each a LightningModule that exports what the rest loads."""

from hetpure.training.classifier import ClassifierTrainer
from hetpure.training.diffusion import DiffusionTrainer

__all__ = ["ClassifierTrainer", "DiffusionTrainer"]
