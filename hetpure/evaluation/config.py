"""An evaluation's settings: one pass from a raw config to frozen settings of the run and of each of its rows.

Mistakes that need no network, and no torch, are found before torch is imported.
"""

import copy
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from hetpure.attacks.registry import build_attack, check_attack_keys, complete_attack
from hetpure.config import DataConfig, WandbConfig, merge, output_folder
from hetpure.config.registry import check_keys, resolve
from hetpure.config.schema import LARGEST, SECTION, plain, signature_schema, structure, to_dict, unknown_key
from hetpure.config.trainer import check_trainer
from hetpure.errors import AbsentError, ConfigError, require
from hetpure.evaluation.expand_grid import SECTIONS, combination_rows, refused_combination, swept
from hetpure.evaluation.expand_table import Cell, TableConfig, check_protocols, check_threats, expand, select_rows
from hetpure.purification.registry import (
    DEFAULT,
    check_purifier_keys,
    check_values,
    complete_settings,
    default_ensemble_mode,
    is_smoothing,
    surrogate_settings,
)
from hetpure.runs.names import check_row_name, default_row_name

TRAINER: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "use_distributed_sampler": False,  # it pads, and padding counts a sample twice
    "inference_mode": False,  # attacks differentiate
}
"""Arguments of Lightning's Trainer that an evaluation decides itself, beside ``callbacks``."""

CLASSIFIER = "hetpure.models.classifiers:build_classifier"
"""The function whose arguments are the keys of ``classifier``."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Which denoiser; see ``hetpure.models.denoisers``."""

    path: str | None = None
    format: str = "diffusers"
    source: str | None = None


@dataclass(frozen=True)
class EnsembleConfig:
    """Algorithm 3's S and how its runs are joined; by default as the purifier's preset does."""

    size: int = 20
    mode: Literal["mean_logits", "mean_probs", "vote"] | None = None


@dataclass(frozen=True)
class ProtocolsConfig:
    """N evaluations that must all be right (1: none), and purifications in a majority vote (0: none)."""

    resubmissions: int = 1
    votes: int = 0


@dataclass(frozen=True)
class HonestyConfig:
    """Honesty checks: on how many images (0: none; ``honesty: true``: 32), and by how much stronger attacks are so."""

    images: int = 0
    factor: int = 2


@dataclass(frozen=True)
class CertifyConfig:
    """Certificates of randomized smoothing: draws that choose a class and that bound its probability, and the error.

    ``radii`` are those that the table has, L2, in units of images in [0, 1].
    """

    n0: int = 100
    n: int = 10000
    alpha: float = 0.001
    radii: list[float] = field(default_factory=lambda: [0.25, 0.5])


@dataclass(frozen=True)
class RowSettings:
    """What a row may have of its own; complete, but for ``attack.recompute``, which may be ``auto``."""

    classifier: dict[str, Any] = field(default_factory=dict)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    purifier: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] = field(default_factory=dict)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """The keys of an evaluation's config.

    ``rows`` names methods to compare: each is the config with that row's changes, a row of the table and a folder of
    its own. Without rows the config itself is the one row. ``grid`` maps keys to lists of values: each combination is
    one more row. With ``table.columns`` each row is evaluated once for each column (``expand_table``).
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
    certify: CertifyConfig | None = None
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


@dataclass(frozen=True)
class RunSettings(EvaluateConfig):
    """The complete settings of an evaluation; where the config has no rows, with one named after its purifier."""

    rows: dict[str, RowSettings] = field(default_factory=dict)
    own: dict[str, tuple[str, ...]] = field(default_factory=dict)  # sections that the config gives for each of its rows
    left_out: dict[str, str] = field(default_factory=dict)  # combinations of the grid that have no row, with the reason

    def to_dict(self) -> dict[str, Any]:
        """The config that is saved: of each row the sections of its own, whole."""
        saved = {key.name: getattr(self, key.name) for key in fields(EvaluateConfig)}
        if self.rows and not self.own:
            saved |= vars(next(iter(self.rows.values())))
        saved["rows"] = {name: {key: getattr(self.rows[name], key) for key in keys} for name, keys in self.own.items()}
        return plain(saved)

    def without_rows(self, names: Collection[str]) -> Self:
        """A copy without some of the rows."""
        return replace(self, rows={name: row for name, row in self.rows.items() if name not in names})

    def in_row(self, name: str, error: ConfigError) -> ConfigError:
        """The error as a row's, where it is about a section that is the row's own."""
        return error.within(f"rows.{name}") if error.key.split(".")[0] in self.own.get(name, ()) else error

    @property
    def undecided(self) -> list[str]:
        """Names of the rows with ``attack.recompute: auto``."""
        return [name for name, row in self.rows.items() if row.attack.get("recompute") == "auto"]

    @property
    def is_open(self) -> bool:
        """Whether anything is still ``auto``."""
        return self.chunk_size == "auto" or bool(self.undecided)

    def decide(self, chunk_size: int | None = None, recompute: Mapping[str, bool | float] | None = None) -> Self:
        """A copy with a value in place of ``chunk_size: auto``, where one is given, and of some rows' ``recompute``."""
        rows = dict(self.rows)
        for name, choice in (recompute or {}).items():
            rows[name] = replace(rows[name], attack={**rows[name].attack, "recompute": choice})
        return replace(self, chunk_size=self.chunk_size if chunk_size is None else chunk_size, rows=rows)


SHARED = tuple(key.name for key in fields(EvaluateConfig) if key.name not in (*SECTIONS, "rows", "table", "grid"))
"""Keys that are the same for all rows: every row sees the same images on the same machine."""


def complete(raw: Mapping[str, Any], names: Collection[str] = ()) -> RunSettings:
    """Checks a raw config and fills in every default, in every row; refuses ``names`` that select no row.

    Raises:
        ConfigError: names the key, its value and what is accepted; before torch is imported, where that can be.
    """
    # rows=null and grid=null on the command line remove those of an included file.
    raw = {key: value for key, value in raw.items() if key not in ("rows", "grid") or value is not None}
    if isinstance(honesty := raw.get("honesty"), bool):
        raw["honesty"] = {"images": 32 if honesty else 0}
    config = structure(EvaluateConfig, raw)
    config = replace(config, output=output_folder(config.output))
    _check_shared(config)
    grid = swept(config.grid, (*SHARED, "rows", "grid"))
    if grid and config.table.columns:
        raise ConfigError("grid", "does not go together with table.columns; remove one of them")
    combinations = combination_rows(grid, config.rows)
    changes = {name: _row_change(name, change) for name, change in {**config.rows, **combinations}.items()}
    base = {key: raw[key] for key in SECTIONS if key in raw}
    purifier = default_row_name(str(config.purifier.get("name", DEFAULT)))
    if config.table.columns and not changes and not config.table.lines:
        changes = {purifier: {}}
    cells, table = expand(base, changes, config.table)
    check_protocols(table, config.protocols.resubmissions, config.protocols.votes)
    alone = not cells and not table.lines
    if alone:
        cells = {purifier: Cell(base, {}, (), purifier)}
    select_rows(cells, table, names)
    merged = {name: _merge_row(cell.base, cell.change) for name, cell in cells.items()}
    once = _Once()
    _check_section_keys(base, once)
    for name, cell in cells.items():
        try:
            _check_section_keys(merged[name], once)
        except ConfigError as error:
            raise cell.blame(error) from None

    # So far nothing needed torch. Values do: they are checked by the methods' classes.
    whole = _complete_row(base, once)
    rows, left_out = dict[str, RowSettings](), dict[str, str]()
    for name, cell in cells.items():
        try:
            if cell.worst:
                missing = table.lines[cell.method]["missing"]
                if lacking := [reason for each in cell.worst for reason in missing.get(cells[each].column, ())]:
                    missing[cell.column] = list(dict.fromkeys(lacking))
                else:
                    rows[name] = _worst_row(cell, {each: rows[each] for each in cell.worst})
                continue
            row = _complete_row(merged[name], once)
            once(check_values, row.purifier, "purifier")
            if process := row.attack.get("process"):
                once(check_values, once(surrogate_settings, row.purifier, process), "attack.process")
            rows[name] = row
        except ConfigError as error:
            if isinstance(error, AbsentError) and cell.column is not None:
                table.lines[cell.method]["missing"][cell.column] = [str(error)]
            elif name in combinations and refused_combination(grid, error):
                left_out[name] = str(error)
            else:
                raise cell.blame(error) from None
    if left_out and not rows:
        raise ConfigError("grid", "the purifier refuses every combination of these values")
    _check_source_rows(rows)
    if config.certify is not None and rows and not any(is_smoothing(row.purifier) for row in rows.values()):
        names = ", ".join(dict.fromkeys(row.purifier["name"] for row in rows.values()))
        problem = "needs a row with purifier.name denoised_smoothing, or another that states its smoothing_sigma"
        raise ConfigError("certify", f"{problem}; found {names[:100]}")
    check_threats(table, {name: row.attack.get("norm") for name, row in rows.items()})
    own = {} if alone else {name: tuple(dict.fromkeys((*cells[name].changed, "attack", "ensemble"))) for name in rows}
    settings = {**vars(config), **vars(whole), "rows": rows, "table": table, "grid": grid}
    return RunSettings(**settings, own=own, left_out=left_out)


def restore(saved: Mapping[str, Any]) -> RunSettings:
    """The settings of a run from its resolved config, whose sections are complete; refuses any other config."""
    config = structure(EvaluateConfig, saved)
    whole = {key: getattr(config, key) for key in SECTIONS}
    own = {name: change or {} for name, change in config.rows.items()}
    rows = {name: structure(RowSettings, {**plain(whole), **own[name]}, f"rows.{name}") for name in own}
    if not rows and not config.table.lines:
        rows = {default_row_name(str(config.purifier["name"])): RowSettings(**whole)}
    return RunSettings(**{**vars(config), "rows": rows}, own={name: tuple(change) for name, change in own.items()})


def _worst_row(cell: Cell, sources: Mapping[str, RowSettings]) -> RowSettings:
    """The row that judges, for each image, the strongest of those of other rows of the same defense."""
    key = f"table.columns.{cell.column}.worst"
    first = next(iter(sources.values()))
    for section in ("classifier", "denoiser", "purifier", "ensemble"):
        if any(getattr(row, section) != getattr(first, section) for row in sources.values()):
            problem = f"its columns differ in {section} (row {cell.method}), and a worst case is that of one defense"
            raise ConfigError(key, problem)
    threats = {name: attack.threat if (attack := build_attack(row.attack)) else None for name, row in sources.items()}
    shown = [f"{name.partition('/')[2]} {threat or 'without one'}" for name, threat in threats.items()]
    threat = threats[next(iter(sources))]
    if len({*threats.values()}) > 1 or threat is None or threat.norm not in ("Linf", "L2"):
        problem = f"has several threat models, or none in a norm: {', '.join(shown)} (row {cell.method})"
        raise ConfigError(key, problem, accepted="attacks of one norm and eps")
    attack = {"name": "strongest_of", "norm": threat.norm, "eps": threat.eps, "rows": list(sources)}
    return replace(first, attack=complete_attack(attack))


def _check_source_rows(rows: Mapping[str, RowSettings]) -> None:
    """Refuses an attack that needs the images of rows that do not come before it."""
    before = list[str]()
    for name, row in rows.items():
        attack = build_attack(row.attack) if row.attack["name"] == "strongest_of" else None
        if attack is not None and (unknown := [each for each in attack.source_rows if each not in before]):
            accepted = f"rows that come before it: {', '.join(before) or 'none do'}"
            raise ConfigError(f"rows.{name}.attack.rows", found=unknown[0], accepted=accepted)
        before.append(name)


class _Once(dict[str, Any]):
    """Calls functions once for equal arguments: rows share sections, and each section is completed once."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        key = repr((function, arguments))
        if key not in self:
            self[key] = function(*arguments)
        return copy.deepcopy(self[key])


def _row_change(name: str, change: Any) -> dict[str, Any]:
    check_row_name(name)
    require(isinstance(change, Mapping | None), f"rows.{name}", change, SECTION)
    if shared := [key for key in change or {} if key in (*SHARED, "rows", "table", "grid")]:
        raise ConfigError(f"rows.{name}.{shared[0]}", f"is the same for all rows; set {shared[0]} once, outside rows")
    return dict(change or {})


def _merge_row(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A row's raw config. Another purifier's surrogate does not fit this one: only the row's own is kept."""
    row = merge(base, change)
    purifier, base_purifier, attack = change.get("purifier"), base.get("purifier") or {}, row.get("attack")
    if not isinstance(purifier, Mapping) or not isinstance(attack, Mapping):
        return row
    if purifier.get("name") not in (None, base_purifier.get("name")):
        own = change.get("attack") or {}
        row["attack"] = {**attack, "process": own.get("process", {})}
        if attack.get("gradient") == "surrogate" and "gradient" not in own and not row["attack"]["process"]:
            del row["attack"]["gradient"]
    return row


def _check_shared(config: EvaluateConfig) -> None:
    """Values that can be refused without looking at images, networks or the machine."""
    ranges = {
        "protocols.resubmissions": (1, 10**6), "protocols.votes": (0, 10**6), "honesty.images": (0, LARGEST),
        "honesty.factor": (2, 1000), "certify.n0": (1, 10**7), "certify.n": (1, 10**7),
        "data.batch_size": (1, 10**6), "data.workers": (0, 1024),
        "chunk_size": (1, 10**6), "threads": (1, 1024), "pictures": (0, 10**5), "hang_minutes": (0, 10**6),
        "seed": (0, LARGEST),
    }  # fmt: skip
    for key, (least, most) in ranges.items():
        value = functools.reduce(lambda section, name: section and getattr(section, name), key.split("."), config)
        accepted = f"{least} to {most}" if most < LARGEST else f"{least} or more"
        require(value in (None, "auto") or least <= value <= most, key, value, accepted)  # pyright: ignore
    if (certify := config.certify) is not None:
        require(0.0 < certify.alpha < 1.0, "certify.alpha", certify.alpha, "above 0 and below 1")
        accepted = "one or more numbers above 0, each once"
        valid = certify.radii and min(certify.radii) > 0.0 and len({*certify.radii}) == len(certify.radii)
        require(bool(valid), "certify.radii", certify.radii, accepted)
    check_trainer(config.trainer, (*TRAINER, "callbacks"))
    precision = config.trainer.get("precision", 32)
    reason = "Lightning lowers the precision of the defense, but not of the attack process; set precision itself"
    require(str(precision) in ("32", "32-true"), "trainer.precision", precision, f"32-true: {reason}")


def _check_section_keys(sections: Mapping[str, Any], once: _Once) -> None:
    """Refuses names and keys of a row that its methods do not have, as far as that needs no torch."""
    for key, section in sections.items():
        if key not in SECTIONS:
            raise unknown_key(key, SECTIONS)
        require(isinstance(section, Mapping), key, section, SECTION)
    purifier, attack = sections.get("purifier", {}), sections.get("attack", {})
    once(structure, DenoiserConfig, sections.get("denoiser", {}), "denoiser")
    once(structure, EnsembleConfig, sections.get("ensemble", {}), "ensemble")
    once(check_keys, sections.get("classifier", {}), CLASSIFIER, "classifier")
    once(check_purifier_keys, purifier)
    once(check_attack_keys, attack)
    process = attack.get("process")
    if isinstance(process, Mapping) and attack.get("name") != "none":
        once(check_purifier_keys, {"name": purifier.get("name", DEFAULT), **process}, "attack.process")


def _complete_row(sections: Mapping[str, Any], once: _Once) -> RowSettings:
    classifier = once(_complete_classifier, sections.get("classifier", {}))
    denoiser = once(structure, DenoiserConfig, sections.get("denoiser", {}), "denoiser")
    purifier = once(complete_settings, sections.get("purifier", {}))
    attack = once(complete_attack, sections.get("attack", {}))
    once(surrogate_settings, purifier, attack.get("process", {}))  # kept as it is; only checked
    ensemble = once(structure, EnsembleConfig, sections.get("ensemble", {}), "ensemble")
    require(1 <= ensemble.size <= 10**6, "ensemble.size", ensemble.size, "1 to 1000000")
    if ensemble.mode is None:
        ensemble = replace(ensemble, mode=default_ensemble_mode(purifier))
    return RowSettings(classifier, denoiser, purifier, attack, ensemble)


def _complete_classifier(section: Mapping[str, Any]) -> dict[str, Any]:
    return to_dict(structure(signature_schema(resolve(CLASSIFIER), ()), section, "classifier"))
