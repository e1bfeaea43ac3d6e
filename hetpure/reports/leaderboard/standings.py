"""The entries of a leaderboard, counted from run folders: one for each method, data set and threat model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetpure.errors import ConfigError
from hetpure.reports.leaderboard.cards import Card, default_card, find_card
from hetpure.runs.read import Method, RunFolder, read_run
from hetpure.runs.results import Accuracy, Conditions, Verdict, wilson
from hetpure.runs.verification import OUTCOMES, VERIFICATION, Verification, fingerprint, read_verification

Threat = tuple[str, float]
"""Norm and radius."""


@dataclass(frozen=True)
class Entry:
    """One method of a submission under one threat model.

    Attributes:
        run: the run folder.
        card: of the submission.
        title: the method's.
        dataset: as the card, or the config, calls it.
        images_hash: of the images; entries with other images cannot be compared exactly.
        threat: norm and radius of its attacks; None if no attack states them.
        standard: accuracy on clean images, one shot.
        robust: accuracy by attack, one shot.
        worst: share of the images that are right under every one of the attacks; None with one attack.
        repeated: the lowest robust accuracy under a best-of-N protocol, with the protocol's name.
        calls: network calls of one prediction, S purifications; None where the run does not say.
        images: number of images.
        unfinished: images without a result, or with a failure.
        honesty: verdicts of the honesty checks of its attacks.
    """

    run: Path
    card: Card
    title: str
    dataset: str
    images_hash: str
    threat: Threat | None
    standard: Accuracy
    robust: Mapping[str, Accuracy]
    worst: Accuracy | None
    repeated: tuple[str, Accuracy] | None
    calls: int | None
    images: int
    unfinished: int
    honesty: Sequence[Verdict] = ()

    @property
    def lowest(self) -> Accuracy:
        """The robust accuracy that ranks it: the worst case over its attacks."""
        return self.worst or min(self.robust.values(), key=lambda accuracy: accuracy.value, default=Accuracy())

    @property
    def honest(self) -> bool | None:
        """False if a check of its attacks failed, True if all that gave a verdict passed, None if there was none."""
        outcomes = {verdict.passed for verdict in self.honesty} - {None}
        return None if not outcomes else False not in outcomes


@dataclass(frozen=True)
class Submission:
    """A run folder with its card, its entries and what a verification said of it."""

    run: RunFolder
    card: Card
    entries: Sequence[Entry]
    verification: Verification | None = None

    @property
    def verified(self) -> str:
        """``verified``, ``partly verified``, ``failed``, or ``not verified``."""
        return "not verified" if self.verification is None else OUTCOMES[self.verification.passed]


@dataclass(frozen=True)
class Board:
    """The table of one data set and threat model."""

    dataset: str
    threat: Threat | None
    entries: Sequence[tuple[Submission, Entry]] = field(default_factory=list)

    @property
    def same_images(self) -> bool:
        """Whether all entries were evaluated on the same images."""
        return len({(entry.images_hash, entry.images) for _, entry in self.entries}) <= 1


def read_submission(folder: Path, verifications: Path | None = None) -> Submission:
    """Reads a run folder, its card, and the verification of its content.

    Args:
        folder: the run folder, perhaps with ``card.yaml``.
        verifications: a folder with ``verification.json`` files, at any depth, that is searched instead of the run
            folder: a file that comes with a submission is the submitter's own word.

    Raises:
        ConfigError: for what is no run folder, has a bad card, or no finished sample.
    """
    run = read_run(folder)
    card = find_card(folder) or default_card(folder)
    groups: dict[str, list[Method]] = {}
    for method in run.methods:
        if method.records:
            groups.setdefault(method.name.rpartition("/")[0] or method.name, []).append(method)
    if unknown := [name for name in card.methods if name not in groups]:
        raise ConfigError(f"{folder}: methods.{unknown[0]}", "the run has no such method", accepted=", ".join(groups))
    entries = [entry for name, methods in groups.items() for entry in _entries(run, card, name, methods)]
    if not entries:
        raise ConfigError(str(folder), "has no finished sample")
    places = sorted((verifications or folder).rglob(VERIFICATION)) if verifications else [folder / VERIFICATION]
    content = fingerprint(folder)
    found = [read_verification(place.parent) for place in places if place.is_file()]
    matching = [verification for verification in found if verification.fingerprint == content]
    return Submission(run, card, entries, matching[-1] if matching else None)


def boards(submissions: Sequence[Submission]) -> list[Board]:
    """The tables, each ranked by robust accuracy, worst case over attacks; methods without an attack come last."""
    tables: dict[tuple[str, Threat | None], list[tuple[Submission, Entry]]] = {}
    for submission in submissions:
        for entry in submission.entries:
            tables.setdefault((entry.dataset, entry.threat), []).append((submission, entry))

    def rank(pair: tuple[Submission, Entry]) -> tuple[float, float]:
        lowest, standard = pair[1].lowest, pair[1].standard
        return (-lowest.value if lowest.count else 1.0, -standard.value if standard.count else 1.0)

    ordered = sorted(tables, key=lambda key: (key[0], key[1] is None, key[1] or ("", 0.0)))
    return [Board(*key, sorted(tables[key], key=rank)) for key in ordered]


def _entries(run: RunFolder, card: Card, name: str, methods: Sequence[Method]) -> list[Entry]:
    """A method's entries: its attacks by threat model."""
    by_threat: dict[Threat | None, list[Method]] = {}
    for method in methods:
        by_threat.setdefault(_threat(method.settings), []).append(method)
    if len(by_threat) > 1:
        by_threat.pop(None, None)  # a column without an attack adds nothing to the others
    return [_entry(run, card, name, threat, attacked) for threat, attacked in by_threat.items()]


def _entry(run: RunFolder, card: Card, name: str, threat: Threat | None, methods: Sequence[Method]) -> Entry:
    first = [method.rows[0] for method in methods]
    robust = {_attack(row.conditions): row.robust for row in first if row.robust.count}
    lines: Any = run.config["table"].get("lines") or {}
    label = str((lines.get(name) or {}).get("label") or name)
    repeated = [(r.protocol, r.robust) for m in methods for r in m.rows if r.protocol.startswith("best of")]
    conditions = first[0].conditions
    calls = None if conditions.network_calls is None else conditions.network_calls * conditions.ensemble
    data: Any = methods[0].settings.get("data") or {}
    return Entry(
        run.path,
        card,
        card.methods.get(name, label),
        card.dataset or str(data.get("name", "unknown data")),
        _images_hash(run),
        threat,
        max((row.standard for row in first), key=lambda accuracy: accuracy.count),
        robust,
        _worst([method for method, row in zip(methods, first, strict=True) if row.robust.count]),
        min(repeated, key=lambda pair: pair[1].value, default=None),
        calls,
        max(row.images for row in first),
        max(row.total - row.images for row in first),
        [verdict for method in methods for verdict in run.report.checks.get(method.name, ())],
    )


def _attack(conditions: Conditions) -> str:
    """The attack in words, with its gradients where they are not exact."""
    return conditions.attack if conditions.gradients == "exact" else f"{conditions.attack}, {conditions.gradients}"


def _worst(methods: Sequence[Method]) -> Accuracy | None:
    """The share of images right under every attack, of those that all attacks have a result for."""
    if len(methods) < 2:
        return None
    outcomes = [{r.index: r.right("adversarial") for r in m.one_shot if r.adversarial} for m in methods]
    common = set.intersection(*map(set, outcomes))
    right = sum(all(outcome[index] for outcome in outcomes) for index in common)
    return wilson(right, len(common)) if common else None


def _threat(settings: Mapping[str, Any]) -> Threat | None:
    attack: Any = settings.get("attack") or {}
    norm, eps = attack.get("norm"), attack.get("eps")
    return (str(norm), float(eps)) if norm is not None and isinstance(eps, int | float) else None


def _images_hash(run: RunFolder) -> str:
    from yaml import YAMLError, safe_load

    try:
        return str(safe_load(run.texts.get("content.yaml", ""))["data"]["images"])
    except (YAMLError, KeyError, TypeError):
        return "unknown"
