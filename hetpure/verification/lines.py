"""Checks of records that need nothing but the folder: every line whole, by the schema, and consistent."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from hetpure.errors import require
from hetpure.runs.files import one_line, settings_of
from hetpure.runs.names import VARIANTS, protocol_names
from hetpure.runs.records import CURVES
from hetpure.runs.results import Verdict
from hetpure.runs.store import RecordStore

SHOWN = 3
"""Problems that a verdict names; it counts the others."""

Line = dict[str, Any]

COMMON = ("label", "image", "failure", *CURVES, "trials", "left_after")
"""Keys that have the same values in all lines of a sample."""


@dataclass(frozen=True)
class Part:
    """Records that belong together: of a row, or of a variant for its honesty checks.

    Attributes:
        name: of the folder, relative to the run's.
        store: the records.
        evaluations: of each protocol.
        attacked: whether the config names an attack.
        seed: of all draws.
        chunk_size: the config's; None where it has none.
        images: how many of the subset's first samples it covers; None for all.
        settings: hashes that its records may have; None where the folder has none.
    """

    name: str
    store: RecordStore
    evaluations: Mapping[str, int]
    attacked: bool
    seed: int
    chunk_size: int | None
    images: int | None = None
    settings: Sequence[str] | None = None

    @property
    def row(self) -> str:
        """The row's name."""
        return self.name.split("/honesty/")[0]

    @property
    def variant(self) -> str | None:
        """The variant's name; None for the row itself."""
        return self.name.split("/honesty/")[1] if "/honesty/" in self.name else None


@dataclass
class Problems:
    """What is wrong, in words, each once, in the order in which it was found."""

    texts: dict[str, None] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Adds one, once."""
        self.texts[text] = None

    def verdict(self, check: str, details: str) -> Verdict:
        """Failed where there are any; else passed, with ``details``."""
        if not self.texts:
            return Verdict(check, True, details)
        rest = len(self.texts) - SHOWN
        shown = "; ".join([*self.texts][:SHOWN])
        return Verdict(check, False, shown + (f"; and {rest} more" if rest > 0 else ""))


def parts_of(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """All records that a run claims.

    Args:
        folder: the run's.
        rows: the resolved config of each row (``row_settings``).

    Raises:
        ConfigError: for a number of the config that is none.
    """
    parts, hashes = [], settings_of(folder)
    for name, settings in rows.items():
        _check_numbers(settings)
        resubmissions, votes = settings["protocols"]["resubmissions"], settings["protocols"]["votes"]
        names = protocol_names(resubmissions, votes)
        size = settings.get("chunk_size")
        attack = settings.get("attack")
        common = (int(settings["seed"]), size if isinstance(size, int) else None)
        attacked = isinstance(attack, Mapping) and attack.get("name", "none") != "none"
        evaluations = {protocol: resubmissions if protocol.startswith("best of") else 1 for protocol in names}
        store = RecordStore(folder / name, names)
        parts.append(Part(name, store, evaluations, attacked, *common, settings=hashes.get(name)))
        if images := settings["honesty"]["images"] if attacked else 0:
            for variant in VARIANTS:
                if (folder / name / "honesty" / variant).is_dir():
                    whole = f"{name}/honesty/{variant}"
                    once, accepted = {"one-shot": 1}, hashes.get(whole)
                    parts.append(Part(whole, RecordStore(folder / whole), once, True, *common, images, accepted))
    return parts


def check_lines(part: Part) -> tuple[Verdict, bool]:
    """Every line is whole, fits the schema and itself; each sample has one line for each protocol.

    Returns:
        The verdict, and whether the lines can be read as records at all.
    """
    problems, count, readable = Problems(), Counter(), True
    samples: dict[int, Line] = {}
    for place, line, problem in _read_lines(part.store.files):
        if line is None:
            problems.add(f"{place} {problem}")
            readable = readable and problem == CUT
            continue
        count[line["index"], line["protocol"]] += 1
        common = {key: line.get(key) for key in COMMON}
        for each in _contradictions(part, line, samples.setdefault(line["index"], common)):
            problems.add(f"sample {line['index']}: {each}")
    for (index, protocol), times in count.items():
        if times > 1:
            problems.add(f"sample {index} has {times} lines for {protocol}")
    for index in samples:
        for protocol in part.evaluations:
            if (index, protocol) not in count:
                problems.add(f"sample {index} has no line for {protocol}")
    details = f"{count.total()} lines, {len(samples)} samples, {len(part.evaluations)} protocol(s)"
    return problems.verdict("records", details), readable


def check_samples(part: Part, indices: Sequence[int]) -> Verdict:
    """The records are of exactly these samples."""
    expected = set(indices[: part.images])
    found = {record.index for record in part.store.outcomes()}
    problems = Problems()
    for what, samples in (("missing", expected - found), ("not in the subset", found - expected)):
        if samples:
            shown = ", ".join(map(str, sorted(samples)[:SHOWN])) + (", .." if len(samples) > SHOWN else "")
            problems.add(f"{len(samples)} of {len(expected)} {what}: {shown}")
    return problems.verdict("samples", f"all {len(expected)} of the subset")


def check_labels(part: Part, labels: Sequence[int]) -> Verdict:
    """The records' labels are the data's."""
    problems, records = Problems(), part.store.outcomes()
    for record in records:
        actual = labels[record.index] if record.index < len(labels) else None
        if record.label != actual:
            problems.add(f"sample {record.index} is of class {actual}, its records say {record.label}")
    return problems.verdict("labels", f"{len({record.index for record in records})} as in the data")


CUT = "is cut short"


@cache
def validator(name: str) -> Draft202012Validator:
    """Of the schema ``record``, ``results`` or ``verification``."""
    schema = files("hetpure.runs").joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def schema_problem(name: str, content: Any) -> str | None:
    """Where and how some content differs from a schema; None if it fits."""
    error = best_match(validator(name).iter_errors(content))
    if error is None:
        return None
    return f"{error.json_path}: {' '.join(error.message.split())[:160]}"


def _read_lines(paths: Sequence[Path]) -> Iterator[tuple[str, Line | None, str]]:
    """Every line's place and content; None and the problem where it does not fit the schema."""
    for path in paths:
        with path.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                place = f"{path.name}, line {number},"
                if not text.endswith(b"\n"):
                    yield place, None, CUT
                    continue
                try:
                    line = json.loads(text[:-1], parse_constant=_refuse_constant)
                except (ValueError, RecursionError) as error:
                    yield place, None, f"is no JSON: {one_line(error)[:80]}"
                    continue
                problem = schema_problem("record", line)
                yield place, line if problem is None else None, f"does not fit the schema: {problem}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _contradictions(part: Part, line: Line, first: Line) -> Iterator[str]:
    """What a line has that contradicts the config, itself or what is ``COMMON`` of the sample's first line."""
    evaluations = part.evaluations.get(line["protocol"])
    if evaluations is None:
        yield f"protocol {line['protocol']!r} is not the config's"
        return
    if line.get("seed", 0) != part.seed:
        yield f"seed {line.get('seed', 0)}, the config has {part.seed}"
    # Records of an earlier version do not say.
    if part.settings is not None and line.get("settings") and line["settings"] not in part.settings:
        yield "made under other settings than run.json has"
    for key in COMMON:
        if line.get(key) != first.get(key):
            yield f"its lines have different values of {key}"
    chunks = line.get("chunks", {})
    if part.chunk_size is not None and any(not _is_halved(size, part.chunk_size) for size in chunks.values()):
        yield f"chunks of {chunks}, the config has {part.chunk_size}"
    failed, has_image = line.get("failure") is not None, line.get("image") is not None
    sides = {"clean": not failed, "adversarial": part.attacked and not failed}
    if has_image != sides["adversarial"]:
        yield "an adversarial image without a result under an attack" if has_image else "no adversarial image"
    for side, due in sides.items():
        predictions, scores = line.get(side, []), line.get(f"{side}_scores", [])
        if len(predictions) != evaluations * due or len(scores) != len(predictions):
            found = f"{len(predictions)} predictions and {len(scores)} rows of scores"
            yield f"{found} of the {side} image for {line['protocol']}, not {evaluations * due}"
        elif predictions != [row.index(max(row)) if row else None for row in scores]:
            yield f"the {side} prediction for {line['protocol']} is not the class with the largest score"


def _check_numbers(settings: Mapping[str, Any]) -> None:
    lowest = {"seed": 0, "protocols.resubmissions": 1, "protocols.votes": 0, "honesty.images": 0}
    for key, least in lowest.items():
        value: Any = settings
        for part in key.split("."):
            value = value.get(part)
        require(type(value) is int and value >= least, f"config.yaml: {key}", value, f"an integer of at least {least}")


def _is_halved(size: int, whole: int) -> bool:
    while whole > size:
        whole //= 2
    return size == whole and size > 0
