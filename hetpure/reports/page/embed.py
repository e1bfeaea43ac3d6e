"""Images inside the page: PNG data URIs, up to a limit."""

import base64
import io
from functools import cache

import matplotlib as mpl
import numpy as np
from PIL import Image

from hetpure.runs.images import is_map

LIMIT = 6_000_000
"""Characters of embedded images in a page."""


class Album:
    """Encodes images as long as ``limit`` characters of data URIs have room; after one without room no more."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = self.room = limit
        self.left_out = 0  # images that found no room

    def add(self, pixels: np.ndarray, heading: str = "") -> str | None:
        """The data URI of uint8 pixels (H, W, C), or None if there is no room; a heading of a map gives colours."""
        uri = None if self.left_out else png_uri(pixels, is_map(heading))
        if uri is None or len(uri) > self.room:
            self.left_out += 1
            return None
        self.room -= len(uri)
        return uri


def png_uri(pixels: np.ndarray, scalar: bool = False, side: int = 128) -> str:
    """uint8 pixels (H, W, C) as a PNG data URI, at most ``side`` pixels long; a scalar map in viridis."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    image.thumbnail((side, side), Image.Resampling.BOX)  # never enlarges
    if scalar and image.mode == "L":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(_viridis())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@cache
def _viridis() -> list[int]:
    return mpl.colormaps["viridis"](np.arange(256), bytes=True)[:, :3].ravel().tolist()
