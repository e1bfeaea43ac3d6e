"""Attacks and gradient modes by name. Their constructors' arguments are the config's keys.

Nothing is imported before it is used, so that a misspelt name or key is found at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hetpure.attacks.recommended import NAMES, written_out
from hetpure.config.registry import Registry, check_defined, check_keys, errors_within
from hetpure.config.schema import SECTION, signature_schema, structure, to_dict
from hetpure.errors import AbsentError, ConfigError, require

if TYPE_CHECKING:
    from hetpure.attacks.base import Attack
    from hetpure.attacks.gradients import ExactGradient
    from hetpure.defense.classifier import PurifiedClassifier

LIBRARIES = {"torchattacks": "torchattacks", "foolbox": "foolbox.attacks", "art": "art.attacks.evasion"}
"""Other libraries' module of attack classes, by the prefix of ``attack.name`` (``torchattacks:EOTPGD``)."""


class _Attacks(Registry["Attack"]):
    """This project's attacks, and those of ``LIBRARIES``."""

    def __getitem__(self, name: str) -> type[Attack]:
        if not _is_foreign(name):
            return super().__getitem__(name)
        from hetpure.attacks.foreign import foreign_class

        return foreign_class(name)

    def target(self, name: str) -> str:
        return "hetpure.attacks.foreign:ForeignAttack" if _is_foreign(name) else super().target(name)

    def outside(self, name: str) -> list[str]:
        return [] if _is_foreign(name) else super().outside(name)

    def name_of(self, thing: object) -> str:
        return getattr(thing, "foreign_name", None) or super().name_of(thing)

    def check_name(self, name: Any, section: str, *others: str) -> str:
        if not _is_foreign(name):
            return super().check_name(name, section, *others)
        prefix, _, attribute = name.partition(":")
        if importlib.util.find_spec(prefix) is None:
            raise AbsentError(f"{section}.name", f"needs {prefix}: pip install 'hetpure[{prefix}]'", found=name)
        check_defined(f"{LIBRARIES[prefix]}:{attribute}", f"{section}.name")
        return name


def _is_foreign(name: Any) -> bool:
    return isinstance(name, str) and name.partition(":")[0] in LIBRARIES and ":" in name


ATTACKS: Registry[Attack] = _Attacks(
    {
        "pgd": "hetpure.attacks.pgd:PGD",
        "apgd": "hetpure.attacks.apgd:APGD",
        "momentum_pgd": "hetpure.attacks.momentum:MomentumPGD",
        "selective": "hetpure.attacks.selective:SelectivePGD",
        "autoattack": "hetpure.attacks.autoattack:AutoAttack",
        "autoattack_reference": "hetpure.attacks.autoattack:ReferenceAutoAttack",
        "stadv": "hetpure.attacks.stadv:StAdv",
        "low_frequency": "hetpure.attacks.low_frequency:LowFrequency",
        "random_noise": "hetpure.attacks.random_noise:RandomNoise",
        "strongest_of": "hetpure.attacks.strongest:StrongestOf",
        "saved": "hetpure.attacks.saved:SavedImages",
    },
    base="hetpure.attacks.base:Attack",
    group="hetpure.attacks",
)

GRADIENTS: Registry[ExactGradient] = Registry(
    {
        "exact": "hetpure.attacks.gradients:ExactGradient",
        "surrogate": "hetpure.attacks.gradients:ExactGradient",
        "bpda": "hetpure.attacks.modes:BPDAGradient",
        "deterministic": "hetpure.attacks.modes:KnownDrawsGradient",
        "blind": "hetpure.attacks.modes:BlindGradient",
        "mask_aware": "hetpure.attacks.modes:MaskAwareGradient",
        "deviation": "hetpure.attacks.deviation:DeviationGradient",
    },
    base="hetpure.attacks.gradients:ExactGradient",
    group="hetpure.gradients",
)
"""Gradient modes by name. ``surrogate`` is the exact gradient of a coarser process."""

WITHOUT_DERIVATIVE = ("bpda", "blind")
"""Modes that do not differentiate the purifier."""

WITHOUT_PROCESS = {
    "exact": "surrogate is the gradient of a changed process",
    "deterministic": "the known draws are the defense's own",
    "blind": "it does not look at the purifier",
}
"""Modes that do not go together with ``attack.process``, and why."""

COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str, "pgd"),
    "gradient": (Any, None),
    "eot": (int, 20),
    "recompute": (bool | float | Literal["auto"], True),
    "process": (dict[str, Any], {}),
    "checkpoints": (list[int], []),
    "precision": (Literal["tf32", "bfloat16"] | None, None),
}
"""Keys of every attack: how the attacker sees the defense; draws per gradient; whether the backward pass computes each
denoising step again (a number: those from this fraction of the schedule on; ``auto``: as many as memory demands);
changes to the purifier for the attacker alone (a surrogate); numbers of iterations after which the image is judged,
too; a lower precision of the attacker's networks alone."""

SUPPLIED = ("process", "eot", "seed")

LEAVE_BROKEN = ("apgd", "momentum_pgd", "selective", "autoattack")
"""Attacks that leave broken images out by themselves, and so have no ``skip_broken``."""


def check_attack_keys(settings: Mapping[str, Any]) -> None:
    """Refuses an unknown attack or gradient mode, or an unknown key of either, and imports neither."""
    settings = written_out(settings)
    name = ATTACKS.check_name(settings.get("name", "pgd"), "attack", "none", *NAMES)
    if name != "none":
        _check_has_skip(settings, name)
        check_keys(settings, ATTACKS.target(name), "attack", COMMON)
        gradient = _gradient_section(settings.get("gradient"), settings.get("process") or {})
        target = GRADIENTS.target(GRADIENTS.check_name(gradient.get("name", "exact"), "attack.gradient"))
        check_keys(gradient, target, "attack.gradient", ("name",), SUPPLIED)


def complete_attack(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an ``attack`` section and fills in defaults; ``none`` attacks nothing and keeps only its name.

    A recommended name becomes the attack that it stands for. Raises ConfigError for an unknown attack or key, a wrong
    type, or a value that the attack rejects.
    """
    settings = written_out(settings)
    name = ATTACKS.check_name(settings.get("name", "pgd"), "attack", "none", *NAMES)
    if name == "none":
        return {"name": "none"}
    _check_has_skip(settings, name)
    with errors_within("attack"):
        cls = ATTACKS[name]
    schema = signature_schema(cls, (), **{**COMMON, "name": (str, name)})
    completed = to_dict(structure(schema, settings, "attack"))
    require(completed["eot"] >= 1, "attack.eot", completed["eot"], "1 or more")
    again = completed["recompute"]
    fits = not isinstance(again, float) or 0.0 < again < 1.0
    require(fits, "attack.recompute", again, "true, false, auto, or a number between 0 and 1")
    completed["gradient"] = complete_gradient(completed["gradient"], completed["process"])
    if not cls.uses_gradients:
        defaults = {"process": {}, "gradient": {"name": "exact"}, "precision": None}
        for key, default in defaults.items():
            accepted = f"no attack.{key} with {name}: images are tried out on the defense itself"
            require(completed[key] == default, f"attack.{key}", completed[key], accepted)
    attack = build_attack(completed)
    if attack is not None and attack.skip_broken:
        sees = completed["gradient"]["name"] != "blind" and completed["process"].get("name") != "none"
        accepted = "false for an attack on the bare classifier: what is broken there may not be in the defense"
        require(sees, "attack.skip_broken", True, accepted)
    _check_checkpoints(completed["checkpoints"], attack)
    if completed["gradient"]["name"] == "deviation" and attack is not None and not attack.sees_loss_alone:
        raise ConfigError("attack.gradient.name", f"and attack {name} sees more than the loss", found="deviation")
    return completed


def complete_gradient(settings: Any, process: Mapping[str, Any]) -> dict[str, Any]:
    """Checks ``attack.gradient``, a mode's name or a section with ``name``, and fills in the mode's defaults.

    None is ``surrogate`` where the attack process is changed, else ``exact``. Raises ConfigError for an unknown mode or
    key, a wrong type, or a mode that does not go with the process.
    """
    settings = _gradient_section(settings, process)
    name = GRADIENTS.check_name(settings.get("name", "exact"), "attack.gradient")
    if process and name in WITHOUT_PROCESS:
        accepted = f"none with gradient {name}: {WITHOUT_PROCESS[name]}"
        raise ConfigError("attack.process", found=dict(process), accepted=accepted)
    if name == "surrogate" and not process:
        raise ConfigError("attack.process", "is empty, and gradient surrogate needs changes to the purifier")
    with errors_within("attack.gradient"):
        cls = GRADIENTS[name]
    return to_dict(structure(signature_schema(cls, SUPPLIED, name=(str, name)), settings, "attack.gradient"))


def _check_has_skip(settings: Mapping[str, Any], name: str) -> None:
    """Says why an attack of this project has no key ``skip_broken``."""
    if "skip_broken" in settings and name in ATTACKS.targets and name != "pgd":
        why = "leaves broken images out by itself" if name in LEAVE_BROKEN else "cannot leave single images out"
        raise ConfigError("attack.skip_broken", f"{name} has no such key: it {why}", accepted="in pgd alone")


def _check_checkpoints(checkpoints: Sequence[int], attack: Attack | None) -> None:
    if not checkpoints:
        return
    if attack is None or not attack.has_prefixes:
        accepted = "[] for this attack: stopped earlier, it would have gone another way"
        raise ConfigError("attack.checkpoints", found=checkpoints, accepted=accepted)
    rising = all(a < b for a, b in zip([0, *checkpoints], [*checkpoints, attack.steps], strict=True))
    require(rising, "attack.checkpoints", checkpoints, f"rising numbers from 1 to below steps, which is {attack.steps}")


def build_attack(settings: Mapping[str, Any]) -> Attack | None:
    """The attack of completed settings; None for ``none``. ConfigError for values that the attack rejects."""
    if settings["name"] == "none":
        return None
    with errors_within("attack"):
        return ATTACKS[settings["name"]](**{k: v for k, v in settings.items() if k not in COMMON})


def build_gradient(settings: Mapping[str, Any], process: PurifiedClassifier, eot: int, seed: int) -> ExactGradient:
    """The gradient source of completed ``attack.gradient`` settings; ConfigError for values that the mode rejects."""
    name = settings["name"]
    if not process.purifier.differentiable and name not in WITHOUT_DERIVATIVE:
        problem = "whose gradient through this purifier is zero everywhere"
        raise ConfigError("name", problem, found=name, accepted=", ".join(WITHOUT_DERIVATIVE))
    return GRADIENTS[name](process, eot, seed, **{key: value for key, value in settings.items() if key != "name"})


def _gradient_section(settings: Any, process: Mapping[str, Any]) -> Mapping[str, Any]:
    if settings is None:
        settings = "surrogate" if process else "exact"
    settings = {"name": settings} if isinstance(settings, str) else settings
    if not isinstance(settings, Mapping):
        raise ConfigError("attack.gradient", found=settings, accepted=f"{', '.join(GRADIENTS)}, or {SECTION}")
    return settings
