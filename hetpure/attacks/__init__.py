"""Adaptive attacks on purified classifiers."""

from hetpure.attacks.base import Attack
from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import ExactGradient, Gradient, GradientSource
from hetpure.attacks.pgd import PGD

__all__ = ["PGD", "AdversarialAttack", "Attack", "ExactGradient", "Gradient", "GradientSource"]
