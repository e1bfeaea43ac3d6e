"""Training augmentation, keyed by (seed, epoch, index): the same picture after a resume, whatever the process."""

import numpy as np
from torch import Tensor
from torch.nn.functional import pad


def augment(image: Tensor, key: tuple[int, int, int], flip: bool, crop_padding: int) -> Tensor:
    """Random horizontal flip, and random crop of the image padded with zeros.

    Args:
        image: (C, H, W).
        key: seed, epoch and index of the sample.
        flip: flip half of the images.
        crop_padding: padding on each side before the crop back to (H, W); 0 for no crop.

    Returns:
        (C, H, W).
    """
    if not flip and not crop_padding:
        return image
    draw = np.random.default_rng(key)
    if flip and draw.random() < 0.5:
        image = image.flip(-1)
    if crop_padding:
        height, width = image.shape[-2:]
        top, left = draw.integers(0, 2 * crop_padding + 1, size=2).tolist()
        image = pad(image, [crop_padding] * 4)[..., top : top + height, left : left + width]
    return image
