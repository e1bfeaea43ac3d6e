"""Pictures of single images on their way through attack and defense."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.noise import defense_draws
from hetpure.runs.files import PICTURES, SAMPLES
from hetpure.runs.images import Pictures, Samples, is_map, load_samples, save_pictures, save_samples, shrunk, to_pixels
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore

THUMBNAIL = 64
"""Longest side of the small clean images, in pixels; larger ones are shrunk."""

CLEAN_LIMIT = 2**23
"""Bytes of small clean images in a run's folder, before compression."""


@dataclass(frozen=True)
class PictureRow:
    """One image's panels, (C, H, W) or (1, H, W) in [0, 1], by name, in the order of events; and the text beside."""

    panels: dict[str, Tensor]
    caption: str
    index: int


def draw_pictures(rows: list[PictureRow], amplification: float, title: str, file: Path) -> None:
    """Writes rows with panels alike as one PNG, one image a line; the amplification is that of the perturbations."""
    names = list(rows[0].panels)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(1.35 * len(names) + 1.5, 1.35 * len(rows) + 0.8), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(len(rows), len(names), squeeze=False)
        for number, (line, row) in enumerate(zip(grid, rows, strict=True)):
            for axes, name in zip(line, names, strict=True):
                panel = row.panels[name]
                image = panel[0] if len(panel) == 1 else panel.movedim(0, -1)
                axes.imshow(image, cmap="viridis" if is_map(name) else "gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if number == 0:
                    heading = f"perturbation x{amplification:.3g}" if name == "perturbation" else name
                    axes.set_title(heading.replace(" ", "\n", 1), fontsize=9)
            line[0].set_ylabel(row.caption, rotation=0, ha="right", va="center", fontsize=8)
        figure.savefig(file)


@torch.no_grad()
def recorded_pictures(
    model: PurifiedClassifier, store: RecordStore, data: ImageDataModule, count: int
) -> tuple[list[PictureRow], float]:
    """Panels of the first samples of the subset that have a result, and by how much perturbations are amplified.

    The purification shown is the first of the defender's draws, of the adversarial image (the clean one, where there
    was no attack).
    """
    records = {record.index: record for record in reversed(store.outcomes()) if record.failure is None}
    chosen = [records[index] for index in data.indices if index in records][:count]
    pairs = []
    for record in chosen:
        clean, saved = item(data.test_source, record.index)["image"], store.adversarial(record)
        pairs.append((clean, clean if saved is None else torch.from_numpy(saved)))
    largest = max((float((adversarial - clean).abs().amax()) for clean, adversarial in pairs), default=0.0)
    amplification = 0.5 / max(largest, 1e-6)
    rows = []
    for record, (clean, adversarial) in zip(chosen, pairs, strict=True):
        draws = defense_draws(model.seed, torch.tensor([record.index], device=model.device), 1)
        views = model.purifier.views(adversarial[None].to(model.device), draws)
        perturbation = 0.5 + amplification * (adversarial - clean)
        panels = {"clean": clean, "adversarial": adversarial, "perturbation": perturbation}
        panels |= {name: view[0].cpu() for name, view in views.items()}
        rows.append(PictureRow(panels, _caption(record, _class_names(data)), record.index))
    return rows, amplification


def keep_samples(data: ImageDataModule, output: Path) -> None:
    """Keeps in a run's folder what its samples are: classes, indices, and small clean images up to ``CLEAN_LIMIT``."""
    names, file = _class_names(data), output / SAMPLES
    with contextlib.suppress(OSError, ValueError):
        old = load_samples(file)
        if list(old.indices) == list(data.indices) and list(old.classes) == list(names):
            return
    try:
        clean: dict[int, np.ndarray] = {}
        bytes_left, shape = CLEAN_LIMIT, None
        for index in data.indices:
            if index in data.scan().unreadable:
                break  # the page has images of the first samples
            pixels = to_pixels(shrunk(item(data.test_source, index)["image"].numpy(), THUMBNAIL))
            bytes_left, shape = bytes_left - pixels.nbytes, shape or pixels.shape
            if bytes_left < 0 or pixels.shape != shape:
                break
            clean[index] = pixels
        save_samples(Samples(data.indices, names, clean), file)
    except Exception as error:
        _report_failure(file, error)


def keep_pictures(rows: Sequence[PictureRow], amplification: float, folder: Path) -> None:
    """Keeps the panels of picture rows in a row's folder, where they can be written."""
    try:
        panels = {row.index: {name: to_pixels(p.numpy()) for name, p in row.panels.items()} for row in rows}
        save_pictures(Pictures(panels, amplification), folder / PICTURES)
    except Exception as error:
        _report_failure(folder / PICTURES, error)


def _report_failure(file: Path, error: Exception) -> None:
    reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(f"{file}: cannot be written: {reason}; going on without it", file=sys.stderr)


def _class_names(data: ImageDataModule) -> list[str]:
    return data.class_names or [str(k) for k in range(data.num_classes)]


def _caption(record: Record, names: Sequence[str]) -> str:
    lines = [names[record.label], f"clean: {names[record.clean[0]]}"]
    lines += [f"attacked: {names[record.adversarial[0]]}"] if record.adversarial else []
    return "\n".join(lines)
