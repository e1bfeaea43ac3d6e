"""Purifiers, and the classifier behind them (Algorithms 1-3)."""

from hetpure.purification.base import Purifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.mask import AttentionMask
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier

__all__ = [
    "AttentionMask",
    "HeterogeneousPurifier",
    "NoPurifier",
    "Purifier",
    "UniformPurifier",
]
