"""Records: one sample's outcome under one protocol, and what a record must be."""

import json
import math
import re
import sys
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from hetpure.runs.certificates import Certificate

Side = Literal["clean", "adversarial"]

CURVES = ("attack_loss", "gradient_size", "attack_correct")
"""Fields with a value for each gradient; the same in a sample's records of all protocols."""


@dataclass(frozen=True)
class Record:
    """One sample's outcome under one protocol."""

    index: int  # position in the dataset split
    protocol: str
    label: int
    clean: list[int]  # class predicted for the clean image, in each of the protocol's evaluations
    clean_scores: list[list[float]]  # class scores of each of them
    adversarial: list[int] = field(default_factory=list)  # like clean; empty without an attack
    adversarial_scores: list[list[float]] = field(default_factory=list)
    attack_loss: list[float] = field(default_factory=list)  # the attacker's mean loss at each gradient
    gradient_size: list[float] = field(default_factory=list)  # largest absolute value of each of them
    attack_correct: list[float] = field(default_factory=list)  # share of the attacker's draws still classified right
    seconds: float = 0.0  # the sample's share of its batch's time for the attack and all protocols
    seed: int = 0  # of all draws; with index and a purification's number it reproduces each of them
    draws: int = 1  # purifications that the protocol used, numbered from 0
    chunks: dict[str, int] = field(default_factory=dict)  # rows in a network call of "attack" and "defense"
    image: str | None = None  # file in the row's folder that holds the adversarial image, under the name of its index
    failure: str | None = None  # why there is no result; predictions are then empty
    checkpoints: dict[str, list[int]] = field(default_factory=dict)  # like adversarial, after so many iterations
    settings: str = ""  # hash of the settings that it was made under; empty in folders of version 2 and earlier
    certificate: Certificate | None = None  # of the first protocol's record, where the run certifies
    trials: int = 0  # purifications by which the attacker tried images out, without gradients
    left_after: int | None = None  # iterations after which the image left the attack, surely broken

    def right(self, side: Side) -> bool | None:
        """Whether every evaluation of the clean or adversarial image was right; None if there was none."""
        predictions = self.clean if side == "clean" else self.adversarial
        return all(predicted == self.label for predicted in predictions) if predictions else None

    def outcome(self) -> dict[str, Any]:
        """What is the same whenever the sample is evaluated: all but the time, and where its image lies."""
        return {key: value for key, value in vars(self).items() if key not in ("seconds", "image")}


@dataclass(frozen=True)
class Expected:
    """What a row's records must agree with. None: not known, and not compared.

    Attributes:
        samples: indices of the row's samples.
        labels: class of each of them, by index.
        classes: number of classes.
        evaluations: of each protocol, by name.
        shape: (C, H, W) of adversarial images, which an attacked sample must have.
        seed: of all draws.
        settings: hashes of the settings that a record may have been made under, first that of new records.
        radius: what a number of votes certifies, where the first protocol's records have certificates.
    """

    samples: Collection[int] | None = None
    labels: Mapping[int, int] | None = None
    classes: int | None = None
    evaluations: Mapping[str, int] | None = None
    shape: tuple[int, int, int] | None = None
    seed: int | None = None
    settings: Sequence[str] | None = None
    radius: Callable[[int], float] | None = None


def shortest(values: ArrayLike) -> list:
    """float32 values as nested lists of the shortest decimals with the same bits."""
    values = np.asarray(values, dtype=np.float32)
    return [shortest(part) for part in values] if values.ndim > 1 else [float(str(value)) for value in values]


def without_scores(record: Record, before: Record | None = None) -> Record:
    """A record as a reader keeps thousands: without scores, and what it has in common with others kept once.

    Args:
        record: a record.
        before: the one in the line before, perhaps of the same sample under another protocol, with the same curves.
    """
    curves = {}
    if before is not None and before.index == record.index:
        same = (name for name in CURVES if getattr(before, name) == getattr(record, name))
        curves = {name: getattr(before, name) for name in same}
    protocol, settings = sys.intern(record.protocol), sys.intern(record.settings)
    image = record.image and sys.intern(record.image)
    return replace(
        record, clean_scores=[], adversarial_scores=[], protocol=protocol, settings=settings, image=image, **curves
    )


def hash_of_scores(record: Record) -> int:
    """A number by which this process tells scores from others."""
    rows = (*record.clean_scores, *record.adversarial_scores)
    return hash((len(record.clean_scores), *(array("d", row).tobytes() for row in rows)))


def to_line(record: Record) -> str:
    """A record as a line of a file, without the keys of ``_OPTIONAL`` that say nothing."""
    content = asdict(record)
    for key, nothing in _OPTIONAL.items():
        if content[key] == nothing:
            del content[key]
    return json.dumps(content, allow_nan=False) + "\n"


def parse_line(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: in words, if it is none, or contradicts itself.
    """
    try:
        content = json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("is no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is no JSON: {' '.join(str(error).split())[:80]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"is a {type(content).__name__}, not a record")
    if unknown := content.keys() - _KINDS.keys():
        raise ValueError(f"has an unknown key {min(unknown)[:40]!r}")
    if missing := [key for key in _REQUIRED if key not in content]:
        raise ValueError(f"lacks {missing[0]!r}")
    for key, value in content.items():
        if not _KINDS[key](value):
            raise ValueError(f"has {key} {repr(value)[:40]}")
    if content.get("certificate") is not None:
        content["certificate"] = Certificate(**content["certificate"])
    record = Record(**content)
    if problem := _contradiction(record):
        raise ValueError(problem)
    return record


def disagreement(record: Record, expected: Expected) -> str | None:
    """How a record disagrees with its row, in words; None if it does not."""
    if expected.settings is not None and record.settings and record.settings not in expected.settings:
        return "was made under other settings"
    if expected.samples is not None and record.index not in expected.samples:
        return f"is of sample {record.index}, which the run does not have"
    if expected.labels is not None and record.label != expected.labels.get(record.index):
        return f"has label {record.label}, the data have {expected.labels.get(record.index)}"
    if expected.seed is not None and record.seed != expected.seed:
        return f"was made with seed {record.seed}, not {expected.seed}"
    if record.failure is not None:
        return None
    if expected.shape is not None and record.image is None:
        return "has no adversarial image"
    if expected.evaluations is None:
        return None
    for side in ("clean", "adversarial") if expected.shape is not None else ("clean",):
        scores = getattr(record, f"{side}_scores")
        if any(len(classes) != len(scores) for classes in record.checkpoints.values()):
            return "has checkpoints of another number of evaluations"
        if len(scores) != expected.evaluations.get(record.protocol):
            return f"has {len(scores)} {side} evaluations for {record.protocol}"
        if expected.classes is not None and any(len(row) != expected.classes for row in scores):
            return f"has {side} scores that are not of {expected.classes} classes"
    if expected.radius is None or record.protocol != next(iter(expected.evaluations)):
        return None
    return _uncertified(record.certificate, expected, expected.radius)


def _uncertified(certificate: Certificate | None, expected: Expected, radius: Callable[[int], float]) -> str | None:
    if certificate is None:
        return "has no certificate"
    if not math.isclose(certificate.radius, radius(certificate.votes), rel_tol=1e-6, abs_tol=1e-9):
        return f"has a certified radius that {certificate.votes} votes do not give"
    if expected.classes is not None and (certificate.label or 0) >= expected.classes:
        return f"has a certified class that is none of {expected.classes}"
    if (certificate.distance is None) != (expected.shape is None):
        return "has a certificate without a distance" if expected.shape else "has a distance without an attack"
    return None


def _contradiction(record: Record) -> str | None:
    for side in ("clean", "adversarial"):
        predictions, scores = getattr(record, side), getattr(record, f"{side}_scores")
        if scores and predictions != [row.index(max(row)) for row in scores]:
            return f"has {side} predictions that are not the classes with the largest scores"
        if record.failure is not None and predictions:
            return "has both predictions and a failure"
    if record.left_after is not None and record.left_after != len(record.attack_loss) - 1:
        return f"left the attack after {record.left_after} iterations and has {len(record.attack_loss)} losses"
    if (certificate := record.certificate) is not None:
        if record.failure is not None:
            return "has both a certificate and a failure"
        if (certificate.label is None) != (certificate.radius == 0):
            return "has a certificate whose class and radius contradict each other"
        if (certificate.attacked_votes is None) == certificate.covers_attack:
            return "has a certificate whose radius and distance contradict its attacked_votes"
    if record.clean or record.adversarial or record.failure is not None:
        return None
    return "has no prediction and no failure"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _text(value: Any) -> bool:
    return type(value) is str


def _classes(value: Any) -> bool:
    return type(value) is list and all(map(_natural, value))


def _numbers(value: Any) -> bool:
    return type(value) is list and all(map(_number, value))


def _sizes(value: Any) -> bool:
    return type(value) is list and all(map(_not_negative, value))


def _scores(value: Any) -> bool:
    return type(value) is list and all(type(row) is list and row and _numbers(row) for row in value)


def _image(value: Any) -> bool:
    return value is None or (_text(value) and re.fullmatch(r"adversarial/\d+(-\d+)?\.npz", value) is not None)


def _certificate(value: Any) -> bool:
    if value is None:
        return True
    return type(value) is dict and value.keys() == _CERTIFICATE.keys() and all(_CERTIFICATE[k](value[k]) for k in value)


def _or_null(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


_CERTIFICATE = {
    "label": _or_null(_natural),
    "radius": _not_negative,
    "votes": _natural,
    "distance": _or_null(_not_negative),
    "attacked_votes": _or_null(_natural),
}

_KINDS = {
    "index": _natural,
    "protocol": lambda value: _text(value) and value != "",
    "label": _natural,
    "clean": _classes,
    "clean_scores": _scores,
    "adversarial": _classes,
    "adversarial_scores": _scores,
    "attack_loss": _numbers,
    "gradient_size": _sizes,
    "attack_correct": lambda value: _sizes(value) and all(share <= 1 for share in value),
    "seconds": _not_negative,
    "seed": _natural,
    "draws": lambda value: _natural(value) and value >= 1,
    "chunks": lambda value: type(value) is dict and all(map(_natural, value.values())),
    "image": _image,
    "failure": lambda value: value is None or _text(value),
    "checkpoints": lambda value: type(value) is dict and all(k.isdecimal() and _classes(v) for k, v in value.items()),
    "settings": _text,
    "certificate": _certificate,
    "trials": _natural,
    "left_after": _or_null(_natural),
}
"""What the values of a line must be, as ``record.schema.json`` says it: a schema's validator is far too slow here."""

_OPTIONAL = {"certificate": None, "trials": 0, "left_after": None}
"""Keys that a line lacks where they have these values: most runs have no such thing."""

_REQUIRED = ("index", "protocol", "label", "clean", "clean_scores")
