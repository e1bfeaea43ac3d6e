"""Datasets in the Hugging Face hub's layout, from the hub or from a local folder, through timm's reader."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from timm.data.readers.reader_hfds import ReaderHfds

from hetpure.errors import AbsentError, ConfigError

Opened = tuple[Callable[[int], bytes], list[int], int, list[str] | None]


class ConfiguredReader(ReaderHfds):
    """timm's hub reader for a dataset that has several configurations (timm's own takes the default one only)."""

    def __init__(self, path: str, config: str | None, split: str, cache: str | None, image_key: str, label_key: str):
        super(ReaderHfds, self).__init__()
        loaded: Any = datasets.load_dataset(path, config, split=split, cache_dir=cache)
        self.dataset = loaded.cast_column(image_key, datasets.Image(decode=False))
        self.image_key, self.label_key = image_key, label_key
        self.target_keys, self.remap_class, self.additional_features = None, False, None


def open_hub(identifier: str, root: str | None, split: str, split_key: str) -> Opened:
    """One split of a hub dataset.

    Args:
        identifier: hub id, with ``:CONFIG`` where the dataset has several configurations.
        root: a local folder in hub layout, which is then read instead of the hub; else where to cache downloads.
        split: name of the split.
        split_key: config key of the split, for messages.

    Returns:
        Reader of one image file's bytes, labels, number of classes, class names where known.

    Raises:
        ConfigError: for a folder without data, an unknown dataset, split or column.
    """
    identifier, _, config = identifier.partition(":")
    if root is not None and not Path(root).expanduser().is_dir():
        raise AbsentError(f"data.root: found {root!r}, which is no folder; accepted is a folder in hub layout")
    local = root is not None and _is_hub_layout(Path(root).expanduser())
    if not local and not identifier:
        raise ConfigError(
            f"data.name: hfds needs a hub id (hfds/OWNER/NAME), or data.root in hub layout; found {root!r}"
        )
    path, cache = (str(Path(root).expanduser().resolve()), None) if local and root else (identifier, root)
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its advice on missing dataset cards
    try:
        builder = datasets.load_dataset_builder(path, config or None, cache_dir=cache)
        image_key, label_key = _columns(
            builder.info.features or datasets.load_dataset(path, config or None, split=split, cache_dir=cache).features
        )
        reader = ConfiguredReader(path, config or None, split, cache, image_key, label_key)
    except ConfigError:
        raise
    except ValueError as error:
        key = split_key if re.search(r"(Unknown|Bad) split", str(error)) else "data.root" if local else "data.name"
        raise ConfigError(f"{key}: {path}: {_one_line(error)}") from None
    except (OSError, DatasetsError) as error:  # not on the hub, no connection, no data files
        raise AbsentError(f"{'data.root' if local else 'data.name'}: {path}: {_one_line(error)}") from None
    labels = [int(label) for label in reader.dataset[label_key]]
    names = getattr(reader.dataset.features[label_key], "names", None)
    return lambda index: reader[index][0].read(), labels, len(names) if names else max(labels) + 1, names


def _is_hub_layout(root: Path) -> bool:
    # Arrow files alone are a download cache, which names the hub as their source.
    return any(root.glob("**/*.parquet")) or (root / "README.md").is_file()


def _columns(features: Any) -> tuple[str, str]:
    """The image column and the class column, found by their types."""
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [key for key in ("label", "labels", "target", "class") if key in features]
    if len(images) != 1 or not labels:
        raise ConfigError(f"data.name: needs one image column and a label column, found {', '.join(features)}")
    return images[0], labels[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
