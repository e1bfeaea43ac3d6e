"""Keyed random numbers: every draw is a pure function of (seed, process, sample, purpose, draw, step).

There is no global state, and the order of calls does not matter. A sample's numbers are the same at any batch size, on
any number of processes and after a resume; a denoising step can be replayed in the backward pass; and the attacker
never draws the defender's numbers.

The generator is the counter-based Philox4x32-10 (Salmon et al. 2011). Its counter holds (position, step, draw, sample),
its key is a hash of (seed, process, purpose). It is written with tensor operations, so that all rows of a batch are
drawn at once, on any device.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from hetpure.errors import require

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox(counter: Sequence[Tensor | int], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit counter words (int64 tensors that broadcast) to four random 32-bit words.

    The int64 products wrap around, but their low 64 bits, from which both words are taken, are right.
    """
    c0, c1, c2, c3 = (torch.as_tensor(word) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _WORD) ^ (c1 ^ k0), p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ (c3 ^ k1), p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


@lru_cache(maxsize=1024)
def _key(seed: int, process: str, purpose: str) -> tuple[int, int]:
    digest = hashlib.blake2b(repr((seed, process, purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@dataclass(frozen=True)
class Draws:
    """The keys under which N rows draw their noise: ``process`` says who draws, and no two share a number."""

    seed: int
    process: str  # such as "defense", "attack", "selection" or "certify"
    sample: Tensor  # (N,) int64, each row's index in its dataset split
    draw: Tensor  # (N,) int64, which of a sample's purifications it is: ensemble member, or EOT draw of an iteration
    offset: int = 0  # added to the ``step`` of every draw; see ``in_round``

    def __post_init__(self) -> None:
        alike = self.sample.ndim == 1 and self.sample.shape == self.draw.shape
        accepted = f"one draw per sample, and sample is {tuple(self.sample.shape)}"
        require(alike, "draw", tuple(self.draw.shape), accepted, "sample")

    def __len__(self) -> int:
        return len(self.sample)

    def rows(self, index: slice | Tensor) -> "Draws":
        """The same keys for a selection of the rows."""
        return replace(self, sample=self.sample[index], draw=self.draw[index])

    def in_round(self, number: int, T: int) -> "Draws":
        """The keys of round ``number`` (from 0) of a loop that visits the timesteps 0..T-1 more than once.

        The same timestep has other noise in each round. Round 0 has the keys themselves.
        """
        return replace(self, offset=number * T)

    def _words(self, purpose: str, step: int, count: int) -> tuple[Tensor, ...]:
        position = torch.arange(count, device=self.sample.device)
        # Element-wise kernels round alike only on equal memory layouts, so the words are dense at any batch size.
        return philox(
            (position[None, :], (step + self.offset) & _WORD, self.draw[:, None], self.sample[:, None]),
            _key(self.seed, self.process, purpose),
        )

    def uniform(self, purpose: str, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on (0, 1), (N, *shape)."""
        size = math.prod(shape)
        words = torch.cat(self._words(purpose, step, -(-size // 4)), dim=1)[:, :size]
        return ((words.double() + 0.5) * 2.0**-32).to(dtype).reshape(len(self), *shape)

    def normal(self, purpose: str, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, (N, *shape), computed in float64 (Box-Muller) and rounded once.

        ``purpose`` is what the noise is for (``"diffuse"``, ``"resample"``, ..), ``step`` the timestep or iteration; no
        two of either share numbers.
        """
        size = math.prod(shape)
        w0, w1, w2, w3 = self._words(purpose, step, -(-size // 4))
        radius = (torch.cat((w0, w2), dim=1).double() + 0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = torch.cat((w1, w3), dim=1).double().mul_(2.0 * math.pi * 2.0**-32)
        normals = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return normals[:, :size].to(dtype).reshape(len(self), *shape)

    def normal_like(self, x: Tensor, purpose: str, step: int) -> Tensor:
        """Standard normal of x's shape and dtype; x has the N rows first."""
        return self.normal(purpose, step, x.shape[1:], x.dtype)


def defense_draws(seed: int, sample: Tensor, size: int) -> Draws:
    """Keys of the defender's ``size`` purifications of each sample; rows are ordered sample by sample."""
    return _draws(seed, "defense", sample, size, first=0)


def attack_draws(seed: int, sample: Tensor, iteration: int, eot: int) -> Draws:
    """Keys of the attacker's ``eot`` draws of each sample in one iteration; every iteration has its own."""
    return _draws(seed, "attack", sample, eot, first=iteration * eot)


def selection_draws(seed: int, sample: Tensor, count: int, first: int = 0) -> Draws:
    """Keys of ``count`` draws by which the attacker tries images out, from number ``first``; independent of others."""
    return _draws(seed, "selection", sample, count, first)


def certify_draws(seed: int, sample: Tensor, count: int) -> Draws:
    """Keys of the ``count`` draws by which each sample is certified, independent of all others."""
    return _draws(seed, "certify", sample, count, first=0)


def _draws(seed: int, process: str, sample: Tensor, size: int, first: int) -> Draws:
    draw = torch.arange(first, first + size, device=sample.device).repeat(len(sample))
    return Draws(seed, process, sample.repeat_interleave(size), draw)
