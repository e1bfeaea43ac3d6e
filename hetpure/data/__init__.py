"""Images and labels: one datamodule over every source."""

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.source import Source
from hetpure.data.sources import open_source
from hetpure.data.subset import subset_indices

__all__ = ["ImageDataModule", "Source", "open_source", "subset_indices"]
