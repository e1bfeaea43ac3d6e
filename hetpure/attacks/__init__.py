"""Adaptive attacks on purified classifiers."""

from typing import TYPE_CHECKING

from hetpure.lazy import lazy_names

if TYPE_CHECKING:
    from hetpure.attacks.apgd import APGD
    from hetpure.attacks.autoattack import AutoAttack, ReferenceAutoAttack
    from hetpure.attacks.base import Attack
    from hetpure.attacks.callback import AdversarialAttack
    from hetpure.attacks.gradients import Evaluation, ExactGradient, Gradient, GradientSource
    from hetpure.attacks.modes import BlindGradient, BPDAGradient, KnownDrawsGradient, MaskAwareGradient
    from hetpure.attacks.pgd import PGD

__all__ = [
    "APGD", "PGD", "AdversarialAttack", "Attack", "AutoAttack", "BPDAGradient", "BlindGradient", "Evaluation",
    "ExactGradient", "Gradient", "GradientSource", "KnownDrawsGradient", "MaskAwareGradient", "ReferenceAutoAttack",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__, __file__)
