"""All images of a subset looked at once: what they are, and which of them cannot be read."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from hetpure.data.source import Source
from hetpure.errors import UnreadableError

FIRST = 16
"""Images that earlier versions hashed."""


@dataclass(frozen=True)
class Scan:
    """What a subset holds.

    Attributes:
        every: hash of the split's labels, the subset and all its images, 16 hexadecimal digits.
        first: the same of its first images alone.
        unreadable: why an image cannot be read, by index.
    """

    every: str
    first: str
    unreadable: Mapping[int, str]


def scan(source: Source, indices: Sequence[int]) -> Scan:
    """Decodes all images with these indices, with a progress bar where that takes long."""
    digest, unreadable = hashlib.blake2b(digest_size=8), dict[int, str]()
    digest.update(torch.as_tensor(list(source.labels), dtype=torch.long).numpy().tobytes())
    digest.update(torch.tensor(indices).numpy().tobytes())
    first = digest.copy()
    bar = tqdm(indices, "looking at all images", leave=False, delay=2.0, disable=not sys.stderr.isatty())
    for number, index in enumerate(bar):
        if number == FIRST:
            first = digest.copy()
        try:
            digest.update(source.image(index).contiguous().numpy().tobytes())
        except UnreadableError as error:
            unreadable[index] = str(error)
            digest.update(b"unreadable")
    return Scan(digest.hexdigest(), (digest if len(indices) <= FIRST else first).hexdigest(), unreadable)
