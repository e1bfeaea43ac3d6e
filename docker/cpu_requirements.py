"""Splits the lock for a machine without CUDA: ``python docker/cpu_requirements.py requirements.lock FOLDER``.

Writes ``torch.txt``, the versions of the two packages whose CPU builds have an index of their own (other files, so
other hashes), and ``rest.txt``, everything else without the packages that only CUDA builds of torch need.
"""

import re
import sys
from pathlib import Path

CUDA = re.compile(r"nvidia-|cuda-|triton\b")
TORCH = ("torch", "torchvision")


def split(lock: str) -> tuple[list[str], list[str]]:
    """The pins of torch, and the other packages' whole entries."""
    entries = re.split(r"\n(?=[a-z])", "\n" + lock)[1:]
    named = {entry.partition("==")[0]: entry for entry in entries}
    torch = [named[name].split()[0] for name in TORCH]
    rest = [entry for name, entry in named.items() if name not in TORCH and not CUDA.match(name)]
    return torch, rest


if __name__ == "__main__":
    torch, rest = split(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    (folder / "torch.txt").write_text("\n".join(torch) + "\n")
    (folder / "rest.txt").write_text("\n".join(rest) + "\n")
