"""A sheet of attention masks, for people to judge whether the classifier looks where the object is."""

import inspect
from pathlib import Path

import torch
from torch import Tensor

from hetpure.config import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.pictures import PictureRow, draw_pictures
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.purification.mask import AttentionMask

SHADE = 0.35
"""Brightness that the overlay leaves to pixels outside the mask."""


def draw_mask_sheet(config: RunSettings) -> None:
    """Draws the sheet of a complete config's data, classifier and mask to ``masks.png`` in its output.

    Raises:
        ConfigError: for data, a classifier or mask settings that cannot be.
    """
    data = ImageDataModule(**to_dict(config.data)).prepare()
    classifier = build_classifier(**to_dict(config.classifier))
    classifier.check_classes(data.image_shape, data.num_classes)
    mask = build_mask(classifier, to_dict(config.purifier))
    if not config.pictures:
        raise ConfigError("pictures: found 0, accepted is 1 or more")
    items = [item(data.test_source, index) for index in data.indices[: config.pictures]]
    names = data.class_names or [str(k) for k in range(data.num_classes)]
    rows = []
    for one in items:
        x = one["image"][None]
        with torch.no_grad():
            seen = int(classifier(x).argmax())
        caption = f"{names[one['label']]}\nseen as: {names[seen]}"
        rows.append(PictureRow({k: v[0] for k, v in mask_panels(mask, x).items()}, caption))
    file = Path(config.output) / "masks.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = ", ".join(map(str, mask.blocks))
    chosen = f"tau {mask.tau}" if mask.selection == "threshold" else f"strongest {mask.top_fraction:.0%} of pixels"
    draw_pictures(rows, 1.0, f"{config.classifier['name']}: blocks {blocks}; {chosen}", file)
    shares = torch.stack([row.panels["mask"].mean() for row in rows])
    print(f"masks cover {shares.min():.1%} to {shares.max():.1%} of the pixels, on average {shares.mean():.1%}")
    print(f"sheet of {len(rows)} pictures: {file}")


def build_mask(classifier: Classifier, purifier: dict) -> AttentionMask:
    """The mask that a completed ``purifier`` section describes.

    Raises:
        ConfigError: where the purifier has no mask, or for settings that cannot be.
    """
    keys = set(inspect.signature(AttentionMask).parameters) - {"classifier"}
    if not keys <= purifier.keys():
        raise ConfigError(f"purifier.name: {purifier['name']} has no attention mask, accepted is heterogeneous")
    try:
        return AttentionMask(classifier, **{key: purifier[key] for key in keys})
    except ValueError as error:
        raise ConfigError(f"purifier.{error}") from None


@torch.no_grad()
def mask_panels(mask: AttentionMask, x: Tensor) -> dict[str, Tensor]:
    """What a mask is made of.

    Args:
        mask: Algorithm 2.
        x: (B, C, H, W) in [0, 1].

    Returns:
        By heading, in order: the image; the attention map; where there are several blocks, each block's own; the mask,
        (B, 1, H, W); and the image with what is outside the mask shaded.
    """
    attention = mask.attention(x)
    panels = {"image": x, "attention map": attention}
    if len(mask.blocks) > 1:
        panels |= {f"block {block}": mask.attention(x, [block]) for block in mask.blocks}
    chosen = mask.select(attention)
    return {**panels, "mask": chosen, "overlay": x * (SHADE + (1.0 - SHADE) * chosen)}
