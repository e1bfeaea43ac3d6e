"""``hetpure.evaluate``: an evaluation of models from Python, the same as the command's.

The objects are described as the config that would build them, and the command's own code runs that config with the
networks and images that were given. So defaults, checks, records, resuming and reports are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hetpure.arguments import KeepsArguments
from hetpure.attacks.base import Attack
from hetpure.attacks.registry import ATTACKS
from hetpure.config import DataConfig
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.source import Source
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError, require
from hetpure.evaluation.build import Loaded, settings_key
from hetpure.evaluation.config import complete
from hetpure.evaluation.content import network_content
from hetpure.evaluation.run import run
from hetpure.models.denoisers import Denoiser, innermost
from hetpure.models.precision import prepared_classifier, prepared_denoiser
from hetpure.planning.auto_settings import choose_auto_settings
from hetpure.purification.base import Purifier, is_setting
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import PURIFIERS
from hetpure.reports.table import markdown
from hetpure.runs.results import Report, TableRow

Images = ImageDataModule | tuple[Tensor, Tensor] | Dataset[Any]

FROM_OBJECTS = (
    "output", "seed", "data", "classifier", "denoiser", "purifier", "attack", "ensemble", "chunk_size", "rows", "table",
    "grid",
)  # fmt: skip
"""Keys of a config that the objects determine."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of ``evaluate``: the run folder (see its ``report.html``), and rows, notes and honesty checks."""

    folder: Path
    report: Report

    @property
    def rows(self) -> Sequence[TableRow]:
        """The table: one row a defense and protocol, with ``standard`` and ``robust`` accuracy and their intervals."""
        return self.report.rows

    def __getitem__(self, name: str) -> TableRow:
        """The one-shot row of a defense."""
        return next(row for row in self.rows if row.method == name and row.protocol == "one-shot")

    def __str__(self) -> str:
        return markdown(self.report)


def evaluate(
    defense: PurifiedClassifier | Mapping[str, PurifiedClassifier],
    attack: Attack | None,
    data: Images,
    output: str | Path = "runs/evaluate",
    *,
    gradient: str | Mapping[str, Any] | None = None,
    eot: int = 20,
    recompute: bool | float | str = True,
    process: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    **settings: Any,
) -> Evaluation:
    """Standard and robust accuracy of one or more defenses under an adaptive attack.

    A call with the same output continues where an interrupted one stopped, and refuses a folder of other settings,
    images or weights. Networks are put into evaluation mode and frozen.

    Args:
        defense: the defense process, or several by the names of their rows. ``ensemble_size``, ``ensemble_mode``,
            ``chunk_size`` (64 where it has none) and ``seed`` are its own; of several, the last two must agree.
        attack: such as ``PGD("Linf", eps=8 / 255, steps=20)``; None measures standard accuracy alone.
        data: (images, labels), float32 (N, C, H, W) in [0, 1] and int64 (N,); or a dataset of (image, label); or an
            ``ImageDataModule``, whose test split it is. A sample's noise is keyed to its position.
        output: the run folder.
        gradient: how the attacker sees the defense, as ``attack.gradient`` of a config: ``exact`` (the default),
            ``bpda``, .., or a mapping with the mode's settings.
        eot: draws of the purifier's noise in each gradient.
        recompute: whether the backward pass computes each denoising step again, so that memory does not grow with the
            number of steps. A number: only the steps from this fraction of the schedule on; ``auto``: as many as memory
            demands.
        process: what the attack process changes in the defense's purifier (a surrogate), such as ``{"grid_size": 10}``.
        batch_size: images in a batch; an ``ImageDataModule`` has its own.
        **settings: every other key of an evaluation's config: ``protocols``, ``honesty``, ``precision``, ``threads``,
            ``pictures``, ``trainer``, ``wandb``, ..; sections as mappings.

    Raises:
        ConfigError: before any work, for what does not fit together.
        RunError: where it cannot go on; finished samples are recorded.
    """
    defenses = dict(defense) if isinstance(defense, Mapping) else {"": defense}
    if not defenses:
        raise ConfigError("defense", "is empty", accepted="one or more")
    if given := [key for key in FROM_OBJECTS if key in settings]:
        raise ConfigError(given[0], "is set by the arguments defense, attack, data and output")
    first = next(iter(defenses.values()))
    for key in ("chunk_size", "seed", "num_classes"):
        if len(values := {getattr(model, key) for model in defenses.values()}) > 1:
            problem = f"the values of {key} differ: {sorted(values)}"
            raise ConfigError("defense", problem, accepted=f"one {key} for all defenses")
    images = _images(data, first.num_classes, batch_size)
    attack_section: dict[str, Any] = {"name": "none"}
    if attack is not None:
        attack_section = {
            "name": ATTACKS.name_of(attack),
            **attack.arguments,
            "gradient": dict(gradient) if isinstance(gradient, Mapping) else gradient,
            "eot": eot,
            "recompute": recompute,
            "process": dict(process or {}),
        }
    rows = {name: {**_sections(model), "attack": attack_section} for name, model in defenses.items()}
    data_section = {key: getattr(images, key) for key in DataConfig.__dataclass_fields__ if key != "name"}
    raw = {
        "output": str(output),
        "seed": first.seed,
        "chunk_size": first.chunk_size,
        "data": {"name": images.source, **data_section},
        **next(iter(rows.values())),
        **({"rows": rows} if isinstance(defense, Mapping) else {}),
    }
    config = complete({**raw, **settings})
    loaded = Loaded()
    for row, model in zip(config.rows.values(), defenses.values(), strict=True):
        model.eval().requires_grad_(False)
        classifier, denoiser = model.classifier, _denoiser(model.purifier)
        classifier.check_classes(images.image_shape, images.num_classes)
        how = (config.precision, config.compile)
        loaded.classifiers[settings_key(row.classifier)] = prepared_classifier(classifier, *how)
        if denoiser is not None:
            denoiser.check_image_shape(images.image_shape)
            loaded.denoisers[settings_key(row.denoiser)] = prepared_denoiser(denoiser, *how)
        if isinstance(model.purifier, NetworkPurifier):
            loaded.networks[settings_key(row.purifier["network"])] = model.purifier.network
    report = run(config, given=(images, loaded), choose_auto=choose_auto_settings)
    return Evaluation(Path(config.output), report)


def _sections(model: PurifiedClassifier) -> dict[str, Any]:
    """A row's config for a defense: settings as they are, networks by their content."""
    purifier, classifier, denoiser = model.purifier, model.classifier, _denoiser(model.purifier)
    own = classifier.arguments if isinstance(classifier, KeepsArguments) else {}
    arguments = {"crop_pct": classifier.crop_pct, "interpolation": classifier.interpolation}
    arguments |= {key: value for key, value in own.items() if is_setting(value)}
    sections: dict[str, Any] = {
        "classifier": {
            "name": type(classifier.network).__name__,
            "mean": classifier.mean.flatten().tolist(),
            "std": classifier.std.flatten().tolist(),
            "image_size": classifier.image_size,
            "arguments": arguments,
            "source": _source(classifier),
        },
        "purifier": {"name": PURIFIERS.name_of(purifier)},
        "ensemble": {"size": model.ensemble_size, "mode": model.ensemble_mode},
    }
    if purifier.preset is not None:
        sections["purifier"]["preset"] = purifier.preset
    sections["purifier"] |= {k: v for k, v in purifier.arguments.items() if is_setting(v) and v is not None}
    if isinstance(purifier, NetworkPurifier):
        network = purifier.network
        sections["purifier"]["network"] = {"name": type(network).__name__, "source": _source(network)}
    if denoiser is not None:
        sections["denoiser"] = {"path": type(denoiser).__name__, "format": "python", "source": _source(denoiser)}
    return sections


def _source(network: nn.Module) -> str:
    return f"given to hetpure.evaluate, content {network_content(network)}"


def _denoiser(purifier: Purifier) -> Denoiser | None:
    """The purifier's denoiser without wrappers: an evaluation wraps it itself."""
    return next(iter(innermost(purifier)), None) if "denoiser" in purifier.arguments else None


def _images(data: Images, num_classes: int, batch_size: int) -> ImageDataModule:
    if isinstance(data, ImageDataModule):
        return data.prepare()
    if isinstance(data, tuple):
        images, labels = data
    else:
        pairs: Any = data
        samples = [pairs[k] for k in range(len(pairs))]
        images = torch.stack([torch.as_tensor(image) for image, *_ in samples])
        labels = torch.tensor([int(label) for _, label, *_ in samples])
    images, labels = images.detach().cpu(), labels.detach().cpu()
    found, is_images = f"{tuple(images.shape)} {images.dtype}", images.ndim == 4 and images.is_floating_point()
    require(is_images and len(images) > 0, "data", found, "images (N, C, H, W) of floats, N at least 1")
    found, is_labels = f"{tuple(labels.shape)} {labels.dtype}", not labels.is_floating_point()
    require(is_labels and labels.shape == (len(images),), "data", found, f"labels ({len(images)},) of integers")
    low, high = float(images.min()), float(images.max())
    require(0.0 <= low <= high <= 1.0, "data", f"{low:g} to {high:g}", "images with values from 0 to 1")
    low, high = int(labels.min()), int(labels.max())
    require(0 <= low <= high < num_classes, "data", f"{low} to {high}", f"labels from 0 to {num_classes - 1}")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    source = Source(images.float().__getitem__, labels.tolist(), shape, num_classes, scale=1.0)
    return ImageDataModule.of(source, batch_size=batch_size)
