"""Purifiers, and the classifier behind them (Algorithms 1-3)."""

from typing import TYPE_CHECKING

from hetpure.lazy import lazy_names

if TYPE_CHECKING:
    from hetpure.purification.base import Purifier
    from hetpure.purification.heterogeneous import HeterogeneousPurifier
    from hetpure.purification.mask import AttentionMask
    from hetpure.purification.none import NoPurifier
    from hetpure.purification.uniform import UniformPurifier

__all__ = ["AttentionMask", "HeterogeneousPurifier", "NoPurifier", "Purifier", "UniformPurifier"]

__getattr__, __dir__ = lazy_names(__name__, __file__)
