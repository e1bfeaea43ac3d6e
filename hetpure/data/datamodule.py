"""The one datamodule: any source, the fixed subset, each process's share, reproducible training order."""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from hetpure.data.items import AugmentedItems, Items
from hetpure.data.sampling import BatchStream
from hetpure.data.scan import Scan, scan
from hetpure.data.source import Source
from hetpure.data.sources import in_memory, open_source
from hetpure.data.subset import part_of_draw, subset_indices
from hetpure.errors import ConfigError, require

MEMORY_LIMIT = 2**30  # decoded training data above this many bytes stays on disk

RANGES: dict[str, tuple[int, int | None]] = {
    "batch_size": (1, 10**6),
    "image_size": (1, 2**14),
    "subset": (1, None),
    "workers": (0, 1024),
    "crop_padding": (0, 2**14),
    "subset_seed": (0, 2**32 - 1),  # numpy's
    "subset_skip": (0, None),
}
"""Least and most of the arguments that are numbers; what the split holds bounds the subset."""


class ImageDataModule(LightningDataModule):
    """Images in [0, 1] with labels and positions.

    Batches are dicts: ``image`` (B, C, H, W) float32 in [0, 1], ``label`` (B,) int64, ``index`` (B,) int64, the
    sample's position in the original split, to which all evaluation randomness is keyed.

    Each process reads its own share: samples rank, rank + world, .. without padding. The Trainer must therefore be
    given ``use_distributed_sampler=False``.

    Args:
        name: ``digits``; ``cifar10_jpeg``; ``hfds/HUB_ID`` (``hfds/HUB_ID:CONFIG``); ``torch/NAME``; ``folder`` or
            ``folder/own_classes``. See ``open_source``.
        root: folder of the data.
        train_split: split to train on.
        test_split: split to test and validate on.
        subset: number of test samples, drawn as the paper draws its 512; None for all.
        subset_seed: of that draw.
        subset_skip: samples of that draw to pass over: for images outside another subset.
        batch_size: per process.
        workers: loader processes; 0 decodes in the main process.
        flip: flip half of the training images.
        crop_padding: random crops of training images padded by this; 0 for none.
        image_size: resize the shorter side and cut the centre square; None for images as they are.
        check: refuse a test subset with images that cannot be read, before any work.
        seed: of the training order and augmentation.

    Attributes:
        image_shape: (C, H, W).
        num_classes: number of classes.
        class_names: their names, or None where unknown.
        indices: positions of the test subset, in the order of its draw; filled by ``prepare``.
        samples: positions that ``test_dataloader`` reads; None for this process's share of the test subset.

    Raises:
        ConfigError: for arguments out of range; and, from ``prepare`` or ``setup``, for data that is not available.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        train_split: str = "train",
        test_split: str = "test",
        subset: int | None = None,
        subset_seed: int = 0,
        subset_skip: int = 0,
        batch_size: int = 16,
        workers: int = 0,
        flip: bool = False,
        crop_padding: int = 0,
        image_size: int | None = None,
        check: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than samples are no error
        self.check = check
        self.source, self.root, self.image_size = name, root, image_size
        self.train_split, self.test_split = train_split, test_split
        self.subset, self.subset_seed, self.subset_skip = subset, subset_seed, subset_skip
        self.batch_size, self.workers = batch_size, workers
        self.flip, self.crop_padding, self.seed = flip, crop_padding, seed
        for key, (least, most) in RANGES.items():
            value = getattr(self, key)
            accepted = f"{least} or more" if most is None else f"{least} to {most}"
            within = value is None or (value >= least and (most is None or value <= most))
            require(within, f"data.{key}", value, accepted)
        self.indices: list[int] = []
        self.samples: Sequence[int] | None = None
        self._test: Source | None = None
        self._scan: Scan | None = None
        self._train: Source | None = None

    @classmethod
    def of(cls, source: Source, **settings: Any) -> "ImageDataModule":
        """A datamodule whose test split is ``source``; ``settings`` are the constructor's arguments but ``name``."""
        data = cls("python", **settings)
        data._use(source)
        return data

    def prepare(self) -> "ImageDataModule":
        """Opens the test split and draws the subset: after this the attributes are known. Cheap without ``check``."""
        if self._test is None:
            self._use(self._open("test_split"))
            if self.check and (unreadable := [*self.scan().unreadable.values()]):
                count = f"{len(unreadable)} of {len(self.indices)} images cannot be read"
                raise ConfigError("data.check", f"{count}, such as: {unreadable[0]}")
        return self

    def scan(self) -> Scan:
        """Decodes every image of the test subset, once."""
        if self._scan is None:
            self._scan = scan(self.test_source, self.indices)
        return self._scan

    def setup(self, stage: str | None = None) -> None:
        """Opens the splits that a stage needs; small training data is decoded into memory once."""
        self.prepare()
        if stage not in (None, "fit") or self._train is not None:
            return
        train = self._open("train_split")
        found, wanted = ((source.num_classes, source.image_shape[0]) for source in (train, self.test_source))
        if found != wanted:
            problem = f"has {found[0]} classes of {found[1]}-channel images, but data.test_split has {wanted[0]}"
            raise ConfigError("data.train_split", f"{problem} of {wanted[1]}")
        small = len(train) * math.prod(train.image_shape) <= MEMORY_LIMIT
        self._train = in_memory(train) if small else train

    @property
    def test_source(self) -> Source:
        """The test split."""
        return cast(Source, self.prepare()._test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.test_source.image_shape

    @property
    def num_classes(self) -> int:
        return self.test_source.num_classes

    @property
    def class_names(self) -> list[str] | None:
        return self.test_source.class_names

    def train_dataloader(self) -> DataLoader[Any]:
        """The training stream, from the Trainer's current step to its ``max_steps``."""
        self.setup("fit")
        assert self._train is not None
        trainer, (rank, world) = self.trainer, self._process()
        accumulate = trainer.accumulate_grad_batches if trainer else 1
        length = trainer.max_steps * accumulate if trainer and trainer.max_steps > 0 else None

        def start() -> int:
            # The optimiser's step alone says where a resumed run continues, however its last one was cut off.
            return trainer.global_step * accumulate if trainer else 0

        stream = BatchStream(len(self._train), self.batch_size, length, start, self.seed, rank, world)
        samples = AugmentedItems(self._train, self.seed, self.flip, self.crop_padding)
        pin = torch.cuda.is_available()
        return DataLoader(samples, batch_sampler=stream, num_workers=self.workers, pin_memory=pin)

    def test_dataloader(self) -> DataLoader[Any]:
        """This process's share of the test subset (shares differ in length by at most one), or ``samples``."""
        rank, world = self._process()
        samples = self.prepare().indices[rank::world] if self.samples is None else self.samples
        return DataLoader(Items(self.test_source, samples), batch_size=self.batch_size, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The test subset once more: figures shown while training, which select nothing."""
        return self.test_dataloader()

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _use(self, test: Source) -> None:
        try:
            if test.drawn is None:
                self.indices = subset_indices(len(test), self.subset, self.subset_seed, self.subset_skip)
            else:
                self.indices = part_of_draw(test.drawn, self.subset, self.subset_seed, self.subset_skip)
        except ConfigError as error:
            raise error.within("data") from None
        self._test, self._scan = test, None

    def _open(self, split: Literal["train_split", "test_split"]) -> Source:
        try:
            return open_source(self.source, self.root, getattr(self, split), self.image_size)
        except ConfigError as error:
            if error.key == "split":
                error.key = split
            raise error.within("data") from None
