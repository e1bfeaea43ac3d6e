"""``hetpure purify``: pictures through a row's purifier, once each, with the classifier's opinion before and after."""

import hashlib
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hetpure.config import DataConfig, expand_home
from hetpure.config.registry import errors_within
from hetpure.config.schema import to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier, chunk_indices
from hetpure.defense.finite import Guarded, finite_rows
from hetpure.defense.hooks import after_calls
from hetpure.defense.memory import in_smaller_chunks
from hetpure.errors import INTERRUPTED, ConfigError, RunError
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.expand_table import select_rows
from hetpure.evaluation.picture_files import Picture, Sizes, read_picture, write_new
from hetpure.evaluation.resolve import check_files
from hetpure.evaluation.run import evaluation_trainer, set_precision
from hetpure.models.classifiers import build_classifier
from hetpure.models.denoisers import Denoiser, build_denoiser, innermost
from hetpure.models.precision import prepared_classifier, prepared_denoiser
from hetpure.noise import defense_draws
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import build_purifier, needs_denoiser
from hetpure.reports.plots import style
from hetpure.runs.files import one_line
from hetpure.runs.images import to_pixels

CHUNK_PIXELS = 256 * 256
"""Pixels in a network call, at least one picture. Fixed, so that a picture's bits depend on no other picture; small, so
that padding never costs more than one picture of 256x256."""

TRIAL_SIDE = 64
"""Side of the blank picture that networks are tried with, where they take any size."""


@dataclass(frozen=True)
class Cleaned:
    """A picture after purification.

    Attributes:
        picture: as it went in.
        pixels: as it came out, uint8 (H, W, C).
        opinions: the classifier's before and after: class and probability.
    """

    picture: Picture
    pixels: np.ndarray
    opinions: tuple[tuple[int, float], tuple[int, float]]


def purify_pictures(config: RunSettings, row: str | None, files: Sequence[Path]) -> None:
    """Purifies pictures into the config's output folder.

    Args:
        config: complete.
        row: whose purifier, classifier and denoiser; None for the last row that purifies.
        files: of the pictures.

    Raises:
        ConfigError: before any work, for networks that cannot be built or do not fit together.
        RunError: where the folder cannot be written; and at the end, where some pictures could not be cleaned.
        SystemExit: after Ctrl-C; what is written stays.
    """
    row = choose_row(config, row)
    trainer = evaluation_trainer(to_dict(config.trainer))
    set_precision(config, trainer)
    if config.threads:
        torch.set_num_threads(config.threads)
    others = [name for name in config.rows if name != row]
    data = open_data(config.data)
    model, channels, sizes = build_cleaner(config.without_rows(others), row, data)
    model.eval().to(trainer.strategy.root_device)
    names = class_names(data, model.num_classes)
    purifier, calls = config.rows[row].purifier["name"], model.purifier.network_calls
    print(f"row {printable(row)}: {purifier} purifier, {calls} network calls a picture, seed {config.seed}")
    job = _Job(config, model, names)
    try:
        job.run(files, channels, sizes)
    except KeyboardInterrupt:
        job.finish()
        folder = printable(config.output)
        print(f"\ninterrupted: the pictures that are cleaned already are kept in {folder}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    job.finish()
    if job.written < len(files):
        raise RunError(
            f"{len(files) - job.written} of {len(files)} pictures could not be cleaned; they are named above"
        )


def choose_row(config: RunSettings, name: str | None) -> str:
    """The named row, of several columns the last; by default the last row with a purifier.

    Raises:
        ConfigError: for another name, or where no row purifies.
    """
    if name is not None:
        return select_rows(config.rows, config.table, [name])[-1]
    purifying = [row for row, settings in config.rows.items() if settings.purifier["name"] != "none"]
    if not purifying:
        raise ConfigError("purifier.name", "no row of this config purifies", found="none")
    return purifying[-1]


def build_cleaner(config: RunSettings, row: str, data: ImageDataModule | None) -> tuple[PurifiedClassifier, int, Sizes]:
    """Loads a row's networks and tries them on a blank picture.

    Args:
        config: with this row alone.
        row: its name.
        data: the config's, where they are here.

    Returns:
        The defense with one purification a picture, and the channels and sizes of pictures that it takes: the
        denoiser's; of a purifier without one, those of the config's images.

    Raises:
        ConfigError: names the key or file.
    """
    check_files(config)
    settings = config.rows[row]
    classifier = build_classifier(**settings.classifier)
    denoiser: Denoiser | None = None
    channels = int((settings.classifier["arguments"] or {}).get("in_chans", 3))
    sizes = Sizes(config.data.image_size if data is None else min(data.image_shape[1:]))
    if needs_denoiser(settings.purifier) and settings.denoiser.path is not None:
        denoiser = build_denoiser(**to_dict(settings.denoiser))
        channels, sizes = denoiser.channels, Sizes(denoiser.image_size, denoiser.multiple)
    if channels not in (1, 3):
        raise ConfigError("denoiser", f"takes {channels} channels", accepted="3 for colour or 1 for grey")
    width, height = sizes.nearest(TRIAL_SIDE, TRIAL_SIDE)
    shape = (channels, height, width)
    if denoiser is not None:
        denoiser.check_image_shape(shape)
        denoiser = Guarded(prepared_denoiser(denoiser, config.precision, config.compile))
    blank = torch.zeros(1, *shape)
    with torch.no_grad():
        try:
            classes = classifier(blank).shape[1]
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            problem = f"does not take {width}x{height} pictures with {channels} channels: {one_line(error)[:200]}"
            raise ConfigError("classifier", f"{problem}; classifier.image_size resizes them for it") from None
        classifier = prepared_classifier(classifier, config.precision, config.compile)
        purifier = build_purifier(settings.purifier, classifier, denoiser)
        with errors_within("purifier"):
            purifier.prepare(blank)
            if isinstance(purifier, NetworkPurifier):
                purifier.check_images(shape)
    return PurifiedClassifier(classifier, purifier, classes, 1, seed=config.seed), channels, sizes


def open_data(config: DataConfig) -> ImageDataModule | None:
    """The config's images, for their size and the names of their classes; None where they would be downloaded."""
    local = config.root is not None and any(expand_home(config.root).glob("**/*.parquet"))
    if "/" in config.name and not (local and config.name.startswith("hfds/")):
        return None
    try:
        return ImageDataModule(**to_dict(config)).prepare()
    except ConfigError as error:
        print(f"without the data's class names: {error}", file=sys.stderr)
        return None


def class_names(data: ImageDataModule | None, count: int) -> list[str]:
    """Names of a classifier's classes: the data's, where there are as many; of 1000 ImageNet's; else numbers."""
    names = data and data.class_names
    if names is not None and len(names) == count:
        return [printable(name) for name in names]
    if count != 1000:
        return [f"class {k}" for k in range(count)]
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(k).split(",")[0] for k in range(count)]


def printable(text: object) -> str:
    """A name as text that changes neither the terminal nor the line."""
    return "".join(c if c.isprintable() else "�" for c in str(text))


def picture_key(pixels: np.ndarray) -> int:
    """What a picture's noise is keyed by: 32 bits of a hash of its shape and pixels, as they go into the networks.

    So its noise is the same in any list, under any name and in any lossless format.
    """
    digest = hashlib.blake2b(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes(), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


class _Job:
    """One call of the command: what is written, and what is left for the sheet."""

    def __init__(self, config: RunSettings, model: PurifiedClassifier, names: list[str]) -> None:
        self.model, self.names = model, names
        self.output, self.shown = Path(config.output), config.pictures
        self.limit = 64 if config.chunk_size == "auto" else config.chunk_size
        self.sheet: list[Cleaned] = []
        self.written = self.done = 0

    @torch.no_grad()
    def run(self, files: Sequence[Path], channels: int, sizes: Sizes) -> None:
        """Purifies the pictures in order; those of one size that follow each other go through the networks together."""
        batch: list[Picture] = []
        with tqdm(
            total=len(files),
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
            bar_format="{percentage:3.0f}%|{bar:20}| {n:.0f}/{total:.0f} pictures, {remaining} left",
        ) as self.bar:
            for file in files:
                try:
                    picture = read_picture(file, channels, sizes)
                except ValueError as error:
                    self._fail(file, error)
                    continue
                if batch and (picture.pixels.shape != batch[0].pixels.shape or len(batch) == self._rows(batch[0])):
                    self._clean(batch)
                    batch = []
                batch.append(picture)
            if batch:
                self._clean(batch)

    def finish(self) -> None:
        """Writes the sheet."""
        if not self.sheet:
            return
        sheet = draw_sheet(self.sheet, self.names)
        file = self._write(sheet, "before_after")
        left_out = f"; pictures={self.written} shows all" if self.written > len(self.sheet) else ""
        print(f"sheet of {len(self.sheet)} picture{'s' * (len(self.sheet) > 1)}: {printable(file)}{left_out}")

    def _rows(self, picture: Picture) -> int:
        """Pictures of this size in a network call."""
        height, width, _ = picture.pixels.shape
        return max(1, min(CHUNK_PIXELS // (height * width), self.limit))

    def _clean(self, batch: list[Picture]) -> None:
        self.model.chunk_size = self._rows(batch[0])  # anew, whatever size the memory was too small for before
        try:
            results = in_smaller_chunks(lambda: self._purify(batch), [self.model], self._say_aside)
        except Exception as error:  # no memory for one, or a network refuses the size, with any exception
            for picture in batch:
                self._fail(picture.file, error)
            return
        for picture, result in zip(batch, results, strict=True):
            if result is None:
                self._fail(picture.file, ValueError("the purified picture is not finite"))
                continue
            self.done += 1
            file = self._write(Image.fromarray(result.pixels.squeeze()), picture.file.stem)
            self.written += 1
            self.sheet += [result] if len(self.sheet) < self.shown else []
            name = printable(picture.file)
            if picture.changes:
                self._say(f"{name}: {picture.changes}")
            before, after = (opinion_text(opinion, self.names) for opinion in result.opinions)
            self._say(f"{name}: {before} before, {after} after; {printable(file)}")

    def _purify(self, batch: list[Picture]) -> list[Cleaned | None]:
        model, done = self.model, self.done
        x = torch.stack([torch.tensor(picture.pixels) for picture in batch]).movedim(-1, 1).contiguous()
        x = x.to(model.device).float() / 255.0
        sample = torch.tensor([picture_key(picture.pixels) for picture in batch], device=model.device)
        calls = max(model.purifier.network_calls * -(-len(batch) // model.chunk_size), 1)

        self._move(done)  # a batch that starts again takes the bar back

        def advance(*_: object) -> None:
            self._move(min(self.bar.n + len(batch) / calls, done + len(batch)))

        with after_calls(innermost(model.purifier), advance):
            purified = model.purified_images(x, defense_draws(model.seed, sample, 1))
        finite = finite_rows(purified).tolist()
        # The opinion is of the picture that is written: 8 bits a value.
        pixels = [to_pixels(image.numpy()) for image in purified.nan_to_num().cpu()]
        rounded = torch.stack([torch.tensor(image) for image in pixels]).movedim(-1, 1).contiguous()
        before, after = self._opinions(x), self._opinions(rounded.to(model.device).float() / 255.0)
        results = zip(batch, pixels, before, after, finite, strict=True)
        return [Cleaned(p, image, (b, a)) if whole else None for p, image, b, a, whole in results]

    def _opinions(self, x: Tensor) -> list[tuple[int, float]]:
        """The classifier's first class of each image and its probability, in chunks of one shape."""
        chunks = chunk_indices(len(x), self.model.chunk_size, x.device)
        probabilities = torch.cat([self.model.classifier(x[rows])[:real] for rows, real in chunks]).softmax(1)
        best = probabilities.max(dim=1)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def _fail(self, file: Path, error: Exception) -> None:
        self._say_aside(f"{printable(file)}: {printable(one_line(error)[:300]) or type(error).__name__}")
        self.done += 1
        self._move(self.done)

    def _move(self, position: float) -> None:
        self.bar.update(position - self.bar.n)

    def _say(self, text: str) -> None:
        tqdm.write(text) if sys.stderr.isatty() else print(text, flush=True)

    def _say_aside(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def _write(self, image: Image.Image, stem: str) -> Path:
        try:
            return write_new(image, self.output, stem)
        except OSError as error:
            raise RunError(f"{self.output}: cannot be written: {one_line(error)}") from None


def opinion_text(opinion: tuple[int, float], names: Sequence[str]) -> str:
    """A class and its probability in words, such as ``cat 93.1 %``."""
    return f"{names[opinion[0]]} {opinion[1]:.1%}".replace("%", " %")


def draw_sheet(results: Sequence[Cleaned], names: Sequence[str]) -> Image.Image:
    """One line a picture: before, after, and their difference around grey, amplified alike on the whole sheet.

    Below each the classifier's opinion; in another colour where it has changed.
    """
    differences = [r.pixels.astype(np.float32) - r.picture.pixels for r in results]
    largest = max(float(np.abs(difference).max()) for difference in differences)
    amplification = 127.5 / max(largest, 1.0)
    with mpl.rc_context({**style.SETTINGS, "image.interpolation": "antialiased"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks
        figure = Figure(figsize=(6.2, 2.05 * len(results) + 0.3), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(results), 3, squeeze=False)
        for axes, title in zip(grid[0], ("before", "after", f"difference x{amplification:.2g}"), strict=True):
            axes.set_title(title)
        for line, result, difference in zip(grid, results, differences, strict=True):
            panels = (result.picture.pixels, result.pixels, 127.5 + amplification * difference)
            before, after = (opinion_text(opinion, names) for opinion in result.opinions)
            changed = result.opinions[0][0] != result.opinions[1][0]
            below = (before, after, f"up to {np.abs(difference).max():.0f} of 255")
            for axes, panel, text in zip(line, panels, below, strict=True):
                axes.imshow(panel.astype(np.uint8).squeeze(), cmap="gray", vmin=0, vmax=255)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                axes.set_xlabel(text, parse_math=False)
            line[1].xaxis.label.set_color(style.VERMILLION if changed else style.BLACK)
            name = printable(result.picture.file.name)
            name = name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"
            line[0].set_ylabel(name, fontsize=8, parse_math=False)
        content = io.BytesIO()
        figure.savefig(content)
    return Image.open(content).convert("RGB")
