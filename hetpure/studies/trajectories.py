"""Figure 4: purification trajectories, laid out by t-SNE among images of the two classes in question.

What is followed is what the purifier takes the image to be at every network call: the x(0) that x(t) and the predicted
noise imply. The noisy x(t) itself lies far from all images in a classifier's feature space.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor
from tqdm import tqdm

from hetpure.data.items import item
from hetpure.errors import ConfigError
from hetpure.models.activations import Block, block_activations
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser, DenoiserWrapper
from hetpure.purification.base import to_unit
from hetpure.purification.registry import build_purifier, needs_denoiser
from hetpure.reports.plots import style
from hetpure.studies.features import blocks_of
from hetpure.studies.finished import FinishedRun, Images, defense_keys
from hetpure.studies.numbers import Measured, plural

NEIGHBOURS = 30
"""t-SNE's perplexity, where there are enough points."""


class Followed(DenoiserWrapper):
    """The same denoiser; keeps what each call takes the image to be.

    Args:
        denoiser: the denoiser to follow.

    Attributes:
        seen: (timestep, x(0) (N, C, H, W) in [0, 1]) of each call, in order.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.seen: list[tuple[int, Tensor]] = []

    def forward(self, x: Tensor, t: int) -> Tensor:
        noise = self.denoiser(x, t)
        self.seen.append((t, to_unit(self.schedule.predict_x0(x, t, noise)).detach()))
        return noise


@torch.no_grad()
def trajectory(images: Images, x: Tensor, position: int, draws: int) -> tuple[list[int], Tensor]:
    """An image's way through the row's purifier.

    Args:
        images: the row, whose purifier has a denoiser.
        x: (1, C, H, W) in [0, 1].
        position: of the image in the row's images, which keys its noise.
        draws: how many purifications.

    Returns:
        The timestep of each network call; and (draws, calls + 2, C, H, W) in [0, 1]: the image, what each call takes it
        to be, the purified image.
    """
    model = images.model
    followed = Followed(model.purifier.denoiser)  # pyright: ignore[reportArgumentType]
    purifier = build_purifier(images.settings, model.classifier, followed)
    keys = defense_keys(images, draws).rows(slice(position * draws, (position + 1) * draws))
    rows = x.expand(draws, *x.shape[1:]).contiguous()
    followed.seen.clear()
    purified = purifier(rows, keys)
    points = [rows, *(seen for _, seen in followed.seen), purified]
    return [t for t, _ in followed.seen], torch.stack(points, dim=1)


@torch.no_grad()
def embedded_features(classifier: Classifier, x: Tensor, block: Block, chunk: int = 64) -> np.ndarray:
    """A block's activations, averaged over its pixels, (N, D), of images (N, C, H, W) in [0, 1]."""
    parts = [block_activations(classifier, part, [block])[0].mean(dim=(2, 3)) for part in x.split(chunk)]
    return torch.cat(parts).cpu().numpy()


def measure(run: FinishedRun, rows: Sequence[str], images: int = 2, draws: int = 3, background: int = 120) -> Measured:
    """Follows the purification of some images, clean and adversarial, in each row.

    Images are the first of the subset that the bare classifier sees right when they are clean and wrong when they are
    attacked, in the same wrong class in every row where there are such.

    Args:
        run: the run.
        rows: the rows to compare; all with a denoiser where none is named.
        images: how many, each with a layout of its own.
        draws: purifications of each.
        background: test images of each of the two classes, which the layout is made among.
    """
    if images < 1 or background < 10:
        raise ConfigError("images, background: accepted are 1 or more images among 10 or more")
    names = [name for name in run.chosen(rows) if rows or needs_denoiser(run.rows[name].purifier)]
    for name in names:
        if not needs_denoiser(run.rows[name].purifier):
            kind = run.rows[name].purifier["name"]
            raise ConfigError(f"--row {name}: its purifier is {kind}, which has no denoiser and no trajectory")
    compared = run.images(names)
    for found in compared:
        found.attacked()
    chosen = _chosen(compared, images)
    if not chosen:
        raise ConfigError(f"{run.folder}: the bare classifier sees no image right when clean and wrong when attacked")
    layouts = [_layout(run, compared, position, draws, background) for position in tqdm(chosen, "images", leave=False)]
    n = len(chosen)
    calls = {found.name: layouts[0]["timesteps"][found.name] for found in compared}
    steps = "; ".join(f"{name}: t = {', '.join(map(str, t))}" for name, t in calls.items() if len(t) <= 8)
    caption = (
        f"Purification trajectories of n = {plural(n, 'image')} ({plural(draws, 'draw')} each), clean and adversarial "
        f"(each row's own, {compared[0].attack}), from the image given over what each network call takes it to be"
        f"{f' ({steps})' if steps else ''} to the purified image. t-SNE of the last block's mean activations, one "
        f"layout a line of panels, among {background} test images of the true class and of each class that the "
        "attacked image is seen in. Images: the first that the bare classifier sees right when clean and wrong when "
        "attacked. "
        "t-SNE keeps neighbours, not distances: lengths and directions mean nothing."
    )
    return Measured({"n": n, "draws": draws, "rows": [c.name for c in compared], "layouts": layouts}, caption)


def draw(measured: Measured) -> Figure:
    """A line for each image, a column for each row of the run."""
    names, layouts = measured.numbers["rows"], measured.numbers["layouts"]
    columns = max(len(names), 2)
    side = (7.2 - 0.6) / columns
    figure, drawing = style.sheet(7.2, len(layouts) * (side * 0.85 + 0.45) + 0.4, measured.caption)
    grid = drawing.subplots(len(layouts), len(names), squeeze=False)
    looks = ((style.SKY, "o"), (style.ORANGE, "^"), (style.GREY, "v"), (style.PURPLE, "P"))
    for line, layout in zip(grid, layouts, strict=True):
        for axes, name in zip(line, names, strict=True):
            for (k, points), (colour, marker) in zip(layout["background"].items(), looks, strict=False):
                axes.scatter(*np.array(points).T, s=9, color=colour, marker=marker, lw=0, alpha=0.5, label=f"{k}")
            for side_name, colour, marker in (
                ("natural", style.BLUE, "o"),
                ("adversarial", style.VERMILLION, "s"),
            ):
                ways = np.array(layout["trajectories"][name][side_name])
                for way in ways:
                    axes.plot(*way.T, color=colour, lw=1.0, alpha=0.8, zorder=3)
                    axes.plot(*way[1:-1].T, color=colour, marker=".", ms=3, ls="", zorder=4)
                    axes.plot(*way[-1], color=colour, marker="*", ms=11, mec="white", mew=0.6, zorder=6)
                axes.plot(*ways[0][0], color="white", mec=colour, mew=1.6, marker=marker, ms=7, zorder=5)
            ends = layout["ends"][name]
            said = [f"{ends[s].count(layout['label'])} of {len(ends[s])}" for s in ("natural", "adversarial")]
            axes.set_title(
                f"{name}: seen as {layout['label']} at the end\nclean {said[0]}, adversarial {said[1]}", fontsize=8
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[["top", "right"]].set_visible(True)
        line[0].set_ylabel(f"{layout['label']}, test image {layout['index']}")
        line[0].legend(
            loc="best", markerscale=2, handletextpad=0.1, borderpad=0.1, title="test images of", title_fontsize=8
        )
    handles = [
        grid[0, 0].plot([], [], color=c, marker=m, mfc="white", mew=1.6, label=f"{s}: given")[0]
        for s, c, m in (("clean", style.BLUE, "o"), ("adversarial", style.VERMILLION, "s"))
    ]
    handles += [grid[0, 0].plot([], [], color=style.BLACK, marker="*", ls="", ms=9, label="purified")[0]]
    drawing.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _chosen(compared: Sequence[Images], count: int) -> list[int]:
    """Positions of images that the attacks turn, those that all turn into the same class first."""
    first = compared[0]
    with torch.no_grad():
        clean = first.model.classifier(first.clean).argmax(1).cpu()
        attacked = torch.stack([found.model.classifier(found.attacked()).argmax(1).cpu() for found in compared])
    turned = (clean == first.label) & (attacked != first.label).all(dim=0)
    alike = turned & (attacked == attacked[0]).all(dim=0)
    order = [*alike.nonzero().flatten().tolist(), *(turned & ~alike).nonzero().flatten().tolist()]
    return order[:count]


def _layout(run: FinishedRun, compared: Sequence[Images], position: int, draws: int, background: int) -> dict[str, Any]:
    """One image's trajectories in every row, and the images around them, in one t-SNE."""
    first = compared[0]
    classifier = first.model.classifier
    ways, timesteps, ends = {}, {}, {}
    wrong = []
    for found in compared:
        for side, x in (("natural", found.clean), ("adversarial", found.attacked())):
            image = x[position : position + 1]
            timesteps[found.name], way = trajectory(found, image, position, draws)
            ways[found.name, side] = way
            with torch.no_grad():
                ends[found.name, side] = [run.class_names[int(k)] for k in classifier(way[:, -1]).argmax(1)]
                wrong += [int(classifier(image).argmax())] if side == "adversarial" else []
    classes = list(dict.fromkeys([int(first.label[position]), *wrong]))
    around = {k: _of_class(run, k, background) for k in classes}
    parts = [*around.values(), *(way.flatten(0, 1).cpu() for way in ways.values())]
    points = embedded_features(classifier, torch.cat(parts).to(run.device), blocks_of(compared)[-1])
    perplexity = min(NEIGHBOURS, (len(points) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    split = np.split(layout, np.cumsum([len(part) for part in parts])[:-1])
    found_ways = {
        key: part.reshape(draws if way.shape[0] == draws else way.shape[0], way.shape[1], 2).round(3).tolist()
        for (key, way), part in zip(ways.items(), split[len(around) :], strict=True)
    }
    names = [found.name for found in compared]
    return {
        "index": int(first.index[position]),
        "label": run.class_names[classes[0]],
        "seen_as": [run.class_names[k] for k in wrong],
        "timesteps": timesteps,
        "background": {run.class_names[k]: part.round(3).tolist() for k, part in zip(around, split, strict=False)},
        "trajectories": {name: {s: found_ways[name, s] for s in ("natural", "adversarial")} for name in names},
        "ends": {name: {s: ends[name, s] for s in ("natural", "adversarial")} for name in names},
    }


def _of_class(run: FinishedRun, label: int, count: int) -> Tensor:
    """Clean test images of a class outside the evaluated subset, where there are any; else of the subset."""
    labels = run.data.test_source.labels
    subset = set(run.data.indices)
    of_class = [i for i in range(len(labels)) if int(labels[i]) == label]
    found = [i for i in of_class if i not in subset] or of_class
    return torch.stack([item(run.data.test_source, i)["image"] for i in found[:count]])
