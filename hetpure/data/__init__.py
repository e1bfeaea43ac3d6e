"""Images and labels: one datamodule over every source."""

from hetpure.data.datamodule import ImageDataModule
from hetpure.data.sources import Source, open_source
from hetpure.data.subset import subset_indices

__all__ = ["ImageDataModule", "Source", "open_source", "subset_indices"]
