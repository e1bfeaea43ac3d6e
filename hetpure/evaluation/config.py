"""The schema of ``evaluate.py``'s configs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from omegaconf import DictConfig

from hetpure.attacks.registry import complete_attack
from hetpure.config import DataConfig, WandbConfig, merge, signature_schema, structure, to_dict
from hetpure.config.trainer import check_trainer
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.expand_grid import expand_grid
from hetpure.evaluation.expand_table import TableConfig, check_protocols, expand
from hetpure.models.classifiers import build_classifier
from hetpure.purification.registry import complete_settings, default_ensemble_mode, surrogate_settings
from hetpure.runs.names import check_row_name

SHARED = (
    "seed", "chunk_size", "threads", "precision", "compile", "data", "trainer", "wandb", "output", "pictures",
    "protocols", "honesty", "hang_minutes",
)  # fmt: skip
"""Sections that are a command's, not a row's: every row sees the same images on the same machine."""


SET_BY_US = (
    "logger",
    "callbacks",
    "inference_mode",
    "use_distributed_sampler",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
)
"""Arguments of Lightning's Trainer that an evaluation decides itself."""


HONESTY_IMAGES = 32
"""How many ``honesty: true`` checks."""


@dataclass
class DenoiserConfig:
    """Which denoiser; see ``hetpure.models.denoisers``."""

    path: str | None = None
    format: str = "diffusers"
    source: str | None = None


@dataclass
class EnsembleConfig:
    """Algorithm 3's S and how its runs are joined; by default as the purifier's preset does."""

    size: int = 20
    mode: Literal["mean_logits", "mean_probs", "vote"] | None = None


@dataclass
class ProtocolsConfig:
    """What counts as right, beside the one-shot prediction.

    ``resubmissions``: N evaluations, all of which must be right (1: none). ``votes``: purifications in a majority vote
    (0: none).
    """

    resubmissions: int = 1
    votes: int = 0


@dataclass
class HonestyConfig:
    """Honesty checks: on how many images (0: none), and by how much the stronger attacks are stronger.

    ``honesty: true`` means 32 images.
    """

    images: int = 0
    factor: int = 2


@dataclass
class EvaluateConfig:
    """Everything that an evaluation is.

    ``rows`` names methods to compare: each is the config with that row's changes, a row of the table and a folder of
    its own. Without rows the config itself is the one row. ``grid`` maps keys to lists of values: each combination is
    one more row (``expand_grid``). With ``table.columns`` each row is evaluated once for each column (``expand``).
    """

    seed: int = 0
    output: str = "runs/evaluate"
    data: DataConfig = field(default_factory=DataConfig)
    classifier: dict[str, Any] = field(default_factory=dict)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    purifier: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] = field(default_factory=dict)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    protocols: ProtocolsConfig = field(default_factory=ProtocolsConfig)
    honesty: HonestyConfig = field(default_factory=HonestyConfig)
    chunk_size: int | Literal["auto"] = 64
    threads: int | None = None
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False
    hang_minutes: float = 30.0
    pictures: int = 8
    trainer: dict[str, Any] = field(default_factory=dict)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    rows: dict[str, Any] = field(default_factory=dict)
    table: TableConfig = field(default_factory=TableConfig)
    grid: dict[str, Any] = field(default_factory=dict)


def complete(raw: Mapping[str, Any]) -> DictConfig:
    """Checks a raw config and fills in every default, in every row.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    if isinstance(raw.get("honesty"), bool):
        raw = {**raw, "honesty": {"images": HONESTY_IMAGES if raw["honesty"] else 0}}
    raw = expand_grid(raw, SHARED)
    config = structure(EvaluateConfig, raw)
    base = {k: v for k, v in raw.items() if k not in ("rows", "table")}
    whole = _complete_row(base)
    changes = {}
    for name, change in config.rows.items():
        check_row_name(str(name))
        change = to_dict(change) if isinstance(change, DictConfig) else change
        if not isinstance(change, Mapping | None):
            raise ConfigError(f"rows.{name}: found {change!r}, accepted is a section of keys")
        for key in change or {}:
            if key in SHARED or key in ("rows", "table", "grid"):
                raise ConfigError(f"rows.{name}.{key}: is the same for all rows; set {key} once, outside rows")
        changes[str(name)] = dict(change or {})
    if config.table.columns and not changes and not config.table.lines:
        changes = {whole["purifier"]["name"]: {}}
    cells, table = expand(base, changes, to_dict(config.table))
    complete_rows = {}
    for name, cell in cells.items():
        try:
            row = _complete_row(_merge_row(cell.base, cell.change))
        except AbsentError as error:
            if cell.column is None:
                raise cell.blamed(error) from None
            table["lines"][cell.method]["missing"][cell.column] = [str(error)]
        except ConfigError as error:
            raise cell.blamed(error) from None
        else:
            # How a purifier's runs are joined is its own to say.
            complete_rows[name] = {k: row[k] for k in dict.fromkeys((*cell.changed, "attack", "ensemble"))}
    check_protocols(table, {name: {**whole, **row} for name, row in complete_rows.items()})
    return structure(EvaluateConfig, {**whole, "rows": complete_rows, "table": table})


def in_row(name: str, change: Mapping[str, Any], error: ConfigError) -> ConfigError:
    """The error as a row's own, where it is about a section that the row changes."""
    section = re.split(r"[.:]", str(error), maxsplit=1)[0]
    return type(error)(f"rows.{name}.{error}") if section in change else error


def row_configs(config: DictConfig) -> dict[str, DictConfig]:
    """The complete config of each row, by name; a config without rows is one row, named after its purifier."""
    whole = to_dict(config)
    rows = whole.pop("rows")
    if not rows and not config.table.lines:  # a table may have lines that cannot be evaluated alone
        rows = {str(config.purifier.name): {}}
    # A completed row holds whole sections.
    return {name: structure(EvaluateConfig, {**whole, **change}) for name, change in rows.items()}


def _merge_row(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A row's raw config. Another purifier's surrogate means nothing to this one: it is dropped, or the row's own."""
    row = merge(base, change)
    own_name = (change.get("purifier") or {}).get("name")
    if own_name not in (None, (base.get("purifier") or {}).get("name")) and isinstance(row.get("attack"), Mapping):
        own = change.get("attack") or {}
        row["attack"] = {**row["attack"], "process": own.get("process", {})}
        if row["attack"].get("gradient") == "surrogate" and "gradient" not in own and not row["attack"]["process"]:
            del row["attack"]["gradient"]
    return row


def _complete_row(raw: Mapping[str, Any]) -> dict[str, Any]:
    config = to_dict(structure(EvaluateConfig, raw))
    config["classifier"] = to_dict(
        structure(signature_schema(build_classifier, ()), config["classifier"], "classifier")
    )
    config["purifier"] = complete_settings(config["purifier"])
    config["attack"] = complete_attack(config["attack"])
    # What the attacker changes is kept as it is; the rest of the attack process is the defense's.
    surrogate_settings(config["purifier"], config["attack"].get("process", {}))
    ensemble = config["ensemble"]
    if ensemble["mode"] is None:
        ensemble["mode"] = default_ensemble_mode(config["purifier"])
    _check_numbers(config)
    check_trainer(config["trainer"], SET_BY_US)
    if str(config["trainer"].get("precision", 32)) not in ("32", "32-true"):
        raise ConfigError(
            f"trainer.precision: found {config['trainer']['precision']}, accepted is 32-true: Lightning lowers the "
            "defense's precision alone, and the attack would differentiate another function; set precision itself"
        )
    return config


def _check_numbers(config: dict[str, Any]) -> None:
    """Values that no image, network or machine is needed to refuse."""
    at_least = {
        ("ensemble", "size"): 1,
        ("protocols", "resubmissions"): 1,
        ("protocols", "votes"): 0,
        ("honesty", "images"): 0,
        ("honesty", "factor"): 2,
        ("data", "batch_size"): 1,
        ("data", "workers"): 0,
        ("chunk_size",): 1,
        ("threads",): 1,
        ("pictures",): 0,
        ("hang_minutes",): 0,
        ("seed",): 0,
    }
    for path, lowest in at_least.items():
        value: Any = config
        for key in path:
            value = cast(dict, value)[key]
        if value not in (None, "auto") and not value >= lowest:
            raise ConfigError(f"{'.'.join(path)}: found {value}, accepted is {lowest} or more")
