"""The defense that is evaluated: a classifier behind S purifications (Algorithm 3), and what keeps it running."""

from hetpure.defense.classifier import PurifiedClassifier

__all__ = ["PurifiedClassifier"]
