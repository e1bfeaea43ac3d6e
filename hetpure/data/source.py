"""One split of a dataset: as it is stored, and decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """One split of a dataset, with random access to its decoded images.

    Args:
        image: position in the split -> (C, H, W) uint8; raises UnreadableError for an image that cannot be read.
        labels: class of each position.
        image_shape: (C, H, W) of every image.
        num_classes: number of classes.
        class_names: their names, where known.
        scale: the value that means 1.0 (255, but 16 for the digits).
        drawn: positions whose images there are, in the order of the paper's draw; None for all.
    """

    image: Callable[[int], Tensor]
    labels: list[int]
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: list[str] | None = None
    scale: float = 255.0
    drawn: list[int] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Files(NamedTuple):
    """One split as it is stored.

    Attributes:
        load: position in the split -> image, or the bytes of its file.
        labels: class of each position.
        class_names: names of the classes, where known.
        mode: RGB, or L for one channel.
        drawn: see ``Source``.
        name: what to call an image that cannot be read: its file; by default its position.
    """

    load: Callable[[int], Image.Image | bytes]
    labels: list[int]
    class_names: list[str] | None = None
    mode: str = "RGB"
    drawn: list[int] | None = None
    name: Callable[[int], str] = "image {}".format
