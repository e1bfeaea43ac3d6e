"""Randomness of a training step: all of it keyed, so that a resumed run draws what an uninterrupted one would."""

import hashlib

import torch


def seed_step(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seeds torch's global generators for one training step.

    Dropout takes no generator, so the key goes into the global ones; the step's own draws follow from the same state.

    Args:
        seed: of the run.
        step: optimiser steps taken so far.
        micro_batch: number of the batch within the step (gradient accumulation).
        rank: of the process.
    """
    digest = hashlib.blake2b(repr((seed, "train", step, micro_batch, rank)).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


class StepCounter:
    """Numbers the batches within each optimiser step."""

    def __init__(self) -> None:
        self._step, self._micro = -1, 0

    def __call__(self, step: int) -> int:
        """Number of this batch within ``step``, from 0."""
        self._step, self._micro = step, self._micro + 1 if step == self._step else 0
        return self._micro
