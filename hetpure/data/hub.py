"""Datasets in the Hugging Face hub's layout, from the hub or from a local folder."""

import logging
import re
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from hetpure.config import exists, expand_home
from hetpure.data.source import Files
from hetpure.data.sources import one_line
from hetpure.errors import AbsentError, ConfigError


def open_hub(identifier: str, root: str | None, split: str) -> Files:
    """One split of a hub dataset.

    Args:
        identifier: hub id, with ``:CONFIG`` where the dataset has several configurations.
        root: a local folder in hub layout, which is then read instead of the hub; else where to cache downloads.
        split: name of the split.

    Raises:
        ConfigError: for a folder without data, an unknown dataset, split or column.
    """
    identifier, _, config = identifier.partition(":")
    folder = None if root is None else expand_home(root)
    if folder is not None and not (exists(folder) and folder.is_dir()):
        raise AbsentError("root", "which is no folder", found=root, accepted="a folder in hub layout")
    local = folder is not None and _is_hub_layout(folder)
    if not local and not identifier:
        raise ConfigError("name", f"hfds needs a hub id (hfds/OWNER/NAME), or a root in hub layout; root is {root!r}")
    path, cache = (str(folder.resolve()), None) if local and folder else (identifier, root)
    key = "root" if local else "name"
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its advice on missing dataset cards
    try:
        if features := datasets.load_dataset_builder(path, config or None, cache_dir=cache).info.features:
            _columns(features)  # refused before anything is downloaded
        dataset: Any = datasets.load_dataset(path, config or None, split=split, cache_dir=cache)
    except ConfigError:
        raise
    except ValueError as error:
        key = "split" if re.search(r"(Unknown|Bad) split", str(error)) else key
        raise ConfigError(key, f"{path}: {one_line(error)}") from None
    except (OSError, DatasetsError) as error:  # not on the hub, no connection, no data files
        raise AbsentError(key, f"{path}: {one_line(error)}") from None
    image_key, label_key = _columns(dataset.features)
    dataset = dataset.cast_column(image_key, datasets.Image(decode=False))

    def read(index: int) -> bytes:
        image = dataset[index][image_key]
        return image["bytes"] or Path(image["path"]).read_bytes()

    labels = [int(label) for label in dataset[label_key]]
    names = getattr(dataset.features[label_key], "names", None)
    return Files(read, labels, names)


def _is_hub_layout(root: Path) -> bool:
    # Arrow files alone are a download cache, which names the hub as their source.
    return any(root.glob("**/*.parquet")) or (root / "README.md").is_file()


def _columns(features: Any) -> tuple[str, str]:
    """The image column and the class column, found by their types."""
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [key for key in ("label", "labels", "target", "class") if key in features]
    if len(images) != 1 or not labels:
        raise ConfigError("name", f"needs one image column and a label column, but has {', '.join(features)}")
    return images[0], labels[0]
