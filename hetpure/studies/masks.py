"""Figure 5: attention map, attention mask and purified image; and sheets of attention masks, before any run."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.config import to_dict
from hetpure.config.registry import errors_within
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError, require
from hetpure.evaluation.config import RunSettings
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.purification.mask import AttentionMask
from hetpure.reports.plots import style
from hetpure.studies.figure import Measured, RunFigure
from hetpure.studies.finished import FinishedRun
from hetpure.studies.panels import image_grid, to_bytes

SHADE = 0.35
"""Brightness that a sheet's overlay leaves to pixels outside the mask."""


@dataclass
class Masks(RunFigure):
    """Attention map, mask, purified image; adversarial images where the row has an attack."""

    images: int = 5  # how many are shown
    first: int = 0  # how many of the subset to leave out before them

    @torch.no_grad()
    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        (row,) = run.images([run.heterogeneous(rows)])
        total, first, settings = len(row.clean), self.first, run.rows[row.name]["purifier"]
        require(0 <= first < total, "first", first, f"0 to {total - 1}: {total} images are finished")
        accepted = f"1 to {total - first}: so many are finished after the first {first}"
        require(1 <= self.images <= total - first, "images", self.images, accepted, "first")
        shown, draws = slice(first, first + self.images), row.draws(1)
        x = row.clean if row.adversarial is None else row.adversarial
        panels = {"original": row.clean[shown]} | ({} if row.adversarial is None else {"adversarial": x[shown]})
        # One image at a time: a figure may show more images than fit through the networks together.
        views = [row.model.purifier.views(x[[i]], draws.rows(slice(i, i + 1))) for i in range(total)[shown]]
        classified = [*panels, "purified"]
        panels |= {name: torch.cat([view[name] for view in views]) for name in views[0]}
        (all_masks,) = row.model.prepare(x)
        share = all_masks.mean(dim=(1, 2, 3))
        mean, low, high = (float(of) for of in (share.mean(), share.min(), share.max()))
        classes = {name: row.model.classifier(panels[name]).argmax(1) for name in classified}
        numbers = {"row": row.name, "label": [run.class_names[int(k)] for k in row.label[shown]]}
        numbers["classified_as"] = {name: [run.class_names[int(k)] for k in of] for name, of in classes.items()}
        numbers["masked_share"] = panels["mask"].mean(dim=(1, 2, 3)).tolist()
        numbers |= {"masked_share_of_all": {"mean": mean, "min": low, "max": high}, "n": self.images, "of": total}
        caption = (
            f"Attention map, attention mask ({selection_of(settings)}), heterogeneous noise (t_large = "
            f"{settings['t_large']} inside, t_small = {settings['t_small']} outside) and purified image, row "
            f"{row.name}, {row.attack}. n = {self.images} of {total} images, the first"
            f"{f' after {first}' * (first > 0)}, not selected. Below each image: its class without a purifier; "
            f"purified: the first of the defender's draws, alone. Masks cover {100 * mean:.1f} % of the pixels on "
            f"average over all {total} ({100 * low:.1f} to {100 * high:.1f} %)."
        )
        return Measured(numbers, caption, {name: to_bytes(images) for name, images in panels.items()})

    def draw(self, measured: Measured) -> Figure:
        numbers, count = measured.numbers, measured.numbers["n"]
        side = 7.2 / (len(measured.arrays) + 0.45)
        figure, drawing = style.sheet(7.2, count * (side + 0.22) + 0.5, measured.caption)
        grid = image_grid(drawing, measured.arrays, numbers["label"], ["attention map"])
        columns = dict(zip(measured.arrays, grid.T, strict=True))
        for name, predicted in numbers["classified_as"].items():
            for axes, given, label in zip(columns[name], predicted, numbers["label"], strict=True):
                mark, colour = ("✓", style.BLUE) if given == label else ("✗", style.VERMILLION)
                axes.set_xlabel(f"{mark} {given}", color=colour)
        for axes, share in zip(columns["mask"], numbers["masked_share"], strict=True):
            axes.set_xlabel(f"{100 * share:.1f} %")
        shades, below = style.shades(Normalize(0, 1)), columns["attention map"]
        drawing.colorbar(shades, ax=below, location="bottom", aspect=9, pad=0.01).set_ticks([0, 1])
        return figure


@torch.no_grad()
def draw_mask_sheet(config: RunSettings) -> None:
    """Draws masks of a complete config's data, classifier and ``purifier`` section to ``masks.png`` in its output."""
    data = ImageDataModule(**to_dict(config.data)).prepare()
    classifier = build_classifier(**to_dict(config.classifier))
    classifier.check_classes(data.image_shape, data.num_classes)
    mask = build_mask(classifier, to_dict(config.purifier))
    require(config.pictures >= 1, "pictures", config.pictures, "1 or more")
    items = [item(data.test_source, index) for index in data.indices[: config.pictures]]
    names = data.class_names or [str(k) for k in range(data.num_classes)]
    seen = [names[int(classifier(one["image"][None]).argmax())] for one in items]
    labels = [f"{names[one['label']]}\nseen as {name}" for one, name in zip(items, seen, strict=True)]
    each = [mask_panels(mask, one["image"][None]) for one in items]
    panels = {name: torch.cat([of_image[name] for of_image in each]) for name in each[0]}
    blocks = ", ".join(map(str, mask.blocks))
    caption = f"{config.classifier['name']}: blocks {blocks}; mask: {selection_of(to_dict(config.purifier))}"
    maps = [name for name in panels if name not in ("image", "mask", "overlay")]
    file = Path(config.output) / "masks.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(style.SETTINGS):
        figure, drawing = style.sheet(1.2 * len(panels) + 0.4, 1.25 * len(items) + 0.4, caption)
        image_grid(drawing, {name: to_bytes(images) for name, images in panels.items()}, labels, maps)
        figure.savefig(file)
    shares = panels["mask"].mean(dim=(1, 2, 3))
    print(f"masks cover {shares.min():.1%} to {shares.max():.1%} of the pixels, on average {shares.mean():.1%}")
    print(f"sheet of {len(items)} pictures: {file}")


def build_mask(classifier: Classifier, purifier: Mapping[str, Any]) -> AttentionMask:
    """The mask that a completed ``purifier`` section describes; ConfigError where it has none or cannot be used."""
    keys = set(inspect.signature(AttentionMask).parameters) - {"classifier"}
    if not keys <= purifier.keys():
        raise ConfigError("purifier.name", "which has no mask", found=purifier["name"], accepted="heterogeneous")
    with errors_within("purifier"):
        return AttentionMask(classifier, **{key: purifier[key] for key in keys})


def mask_panels(mask: AttentionMask, x: Tensor) -> dict[str, Tensor]:
    """What the mask of images x (B, C, H, W) in [0, 1] is made of, by heading.

    In order: the image; the attention map; where there are several blocks, each block's own; the mask, (B, 1, H, W);
    and the image with what is outside the mask shaded.
    """
    attention = mask.attention(x)
    panels = {"image": x, "attention map": attention}
    if len(mask.blocks) > 1:
        panels |= {f"block {block}": mask.attention(x, [block]) for block in mask.blocks}
    selected = mask.select(attention)
    return {**panels, "mask": selected, "overlay": x * (SHADE + (1.0 - SHADE) * selected)}


def selection_of(purifier: Mapping[str, Any]) -> str:
    """How a ``purifier`` section selects the mask's pixels, in words."""
    if purifier["selection"] == "threshold":
        return f"tau = {purifier['tau']}"
    return f"top {100 * purifier['top_fraction']:.3g} %"
