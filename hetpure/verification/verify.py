"""``hetpure verify``: checks every claim of a run folder, first with the folder alone, then with its networks."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetpure import __version__
from hetpure.config.named_code import allowed_config
from hetpure.errors import ConfigError, require
from hetpure.runs.claim import differences, hashed_before
from hetpure.runs.files import CONTENT, RESULTS, read_mapping
from hetpure.runs.honesty import inside
from hetpure.runs.read import read_results, read_settings, row_settings
from hetpure.runs.records import Record
from hetpure.runs.results import Verdict
from hetpure.runs.store import RecordStore
from hetpure.runs.verification import Verification, fingerprint
from hetpure.verification.lines import Part, check_labels, check_lines, check_samples, parts_of
from hetpure.verification.table import check_report, check_table, check_table_files, written_by

if TYPE_CHECKING:
    from hetpure.evaluation.build import Row
    from hetpure.verification.reopen import Reopened

SEEDS = 2**31
"""Fresh seeds are below this. They are drawn anew for each verification, so that nobody can choose images by them."""

Tell = Callable[[str, Verdict], None]


def verify(folder: Path, overrides: Sequence[str] = (), samples: int = 2, tell: Tell = lambda *_: None) -> Verification:
    """Checks a run's claims.

    Args:
        folder: the run's.
        overrides: ``key=value``: where images and weights are now, and code that the folder names and that may run.
        samples: how many samples of each row are attacked again, drawn at random; as many failed ones beside them.
        tell: called with the row (empty for the run as a whole) and each verdict as soon as it is there.

    Raises:
        ConfigError: for a folder that is not an evaluation's, or that names code which the user has not named.
        RunError: where memory does not hold one row of a network call.
    """
    require(samples >= 0, "--samples", samples, "0 or more")
    raw, code = allowed_config(read_settings(folder), overrides)
    raw["output"] = str(folder)
    checks = _Checks(folder, raw, samples, tell, code)
    checks.folder_alone()
    from hetpure.verification.reopen import reopen

    opened = reopen(raw, [override.split("=", 1)[0] for override in overrides])
    checks.with_data(opened)
    checks.with_networks(opened)
    return Verification(fingerprint(folder), checks.verdicts.pop("", []), checks.verdicts, samples, checks.seed)


@dataclass
class _Checks:
    """The checks of one run, in order, and their verdicts by row."""

    folder: Path
    raw: Mapping[str, Any]
    samples: int
    tell: Tell
    code: Mapping[str, str]
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    seed: int = field(default_factory=lambda: secrets.randbelow(SEEDS))

    def __post_init__(self) -> None:
        rows = row_settings(self.raw)
        absent = self._absent()
        ensembles = {name: settings.get("ensemble") for name, settings in rows.items()}
        self.modes = {name: e.get("mode") if isinstance(e, Mapping) else None for name, e in ensembles.items()}
        parts = parts_of(self.folder, rows)
        self.parts = [part for part in parts if part.row not in absent or part.store.files]
        self.readable: set[str] = set()

    def add(self, part: str, verdict: Verdict) -> None:
        """Keeps a verdict and tells it."""
        self.verdicts.setdefault(part, []).append(verdict)
        self.tell(part, verdict)

    def folder_alone(self) -> None:
        """Records and tables."""
        for part in self.parts:
            verdict, readable = check_lines(part)
            self.add(part.name, verdict)
            if readable:
                self.readable.add(part.name)
        if len(self.readable) < len(self.parts):
            self.add("", Verdict("table", None, "there are records that cannot be read"))
            return
        self.add("", table := check_table(self.folder))
        if table.passed:
            self.add("", check_table_files(self.folder))

    def with_data(self, opened: "Reopened") -> None:
        """Samples, labels, and saved images."""
        for part in self.parts:
            if opened.data is None:
                self.add(part.name, Verdict("samples", None, opened.no_data))
            elif part.name in self.readable:
                self.add(part.name, check_samples(part, opened.data.indices))
                self.add(part.name, check_labels(part, opened.data.test_source.labels))
                if part.attacked:
                    self.add(part.name, self._ball(part, opened))

    def with_networks(self, opened: "Reopened") -> None:
        """Content, decisions, attacks, and the report."""
        if opened.resolved is None or opened.trainer is None or opened.data is None:
            refused = opened.refused and written_by(self.folder) == __version__
            self.add("", Verdict("content", False if refused else None, opened.no_networks))
            return
        other = self._check_content(opened)
        able: list[tuple[Part, Row]] = []
        for part in self.parts:
            row = opened.row(part.row)
            row = row.variants.get(part.variant) if row is not None and part.variant else row
            reason = None
            if part.name not in self.readable:
                reason = "its records cannot be read"
            elif row is None:
                reason = "; ".join(opened.resolved.absent.get(part.row, [])) or "it has no such variant"
            elif "images" in other or part.row in other:
                reason = "images, weights or code are not the run's"
            if reason is None and row is not None:
                able.append((part, row))
            else:
                self.add(part.name, Verdict("judged again", None, str(reason)))
        level = self._level(able)
        for part, row in able:
            self._evaluate(part, row, opened, level)
        self._check_report(opened)

    # ---- with the data

    def _ball(self, part: Part, opened: "Reopened") -> Verdict:
        assert opened.data is not None
        row = opened.row(part.row)
        row = row.variants.get(str(part.variant)) if row is not None and part.variant else row
        attack = row.attack if row is not None else None if part.variant else opened.attack(part.row)
        threat = attack.threat if attack is not None else None
        if threat is None:
            return Verdict("inside the ball", None, "the attack does not declare its threat model, or is not known")
        shape = opened.data.image_shape
        return inside(
            self._known(part, opened),
            threat.norm,
            threat.eps,
            lambda record: saved_image(part.store, record, shape),
            lambda index: _clean(opened, index),
        )

    def _known(self, part: Part, opened: "Reopened") -> list[Record]:
        """A part's records of samples that are in the subset, without scores."""
        assert opened.data is not None
        subset = set(opened.data.indices)
        return [record for record in part.store.outcomes() if record.index in subset]

    # ---- with networks

    def _check_content(self, opened: "Reopened") -> set[str]:
        """Hashes of images, weights and code against ``content.yaml``; returns ``images`` or the rows that differ."""
        from hetpure.evaluation.build import content_of

        assert opened.resolved is not None
        check, here = "content", content_of(opened.resolved.rows, opened.resolved.data)
        if not (self.folder / CONTENT).is_file():
            self.add("", Verdict(check, None, f"there is no {CONTENT}"))
            return set()
        try:
            claimed = read_mapping(self.folder / CONTENT)
            rows = {name: claimed["rows"].get(name) or {} for name in here["rows"]}
            hashed = True
            for name, row in here["rows"].items():
                code = {self.code.get(target, target): value for target, value in row.pop("code", {}).items()}
                hashed = hashed and (not code or "code" in rows[name])  # earlier versions did not hash code
                row |= {"code": code} if code and "code" in rows[name] else {}
            images = hashed_before(claimed["data"], here["data"])  # earlier versions hashed the first images alone
            changes = differences({"data": claimed["data"], "rows": rows}, {**here, "data": images}, ())
        except (ConfigError, KeyError, AttributeError) as error:
            self.add("", Verdict(check, False, f"{CONTENT} cannot be read: {error}"))
            return set()
        details = "; ".join(changes[:3]) or f"hashes of images and of {len(here['rows'])} row(s) as recorded"
        details += "" if hashed else f"; {CONTENT} has no hash of the code"
        self.add("", Verdict(check, False if changes else True if hashed else None, details))
        differing = {name for name in rows if rows[name] != here["rows"][name]}
        return differing | ({"images"} if claimed.get("data") != here["data"] else set())

    def _level(self, able: "Sequence[tuple[Part, Row]]") -> float:
        """Of each statistical test, so that all together have ``LEVEL``."""
        from hetpure.verification.compare import LEVEL, SIDES

        fresh = sum(len(part.evaluations) for part, row in able if _is_random(part, row))
        return LEVEL / max(fresh * len(SIDES) + len(able), 1)

    def _evaluate(self, part: Part, row: "Row", opened: "Reopened", level: float) -> None:
        """Attacks some samples again, then judges all saved images, with the recorded and with fresh draws."""
        from hetpure.verification import again
        from hetpure.verification.compare import (
            compare_attacked,
            compare_certificates,
            compare_fresh,
            compare_judged,
            rounds_alike,
        )

        assert opened.data is not None and opened.trainer is not None and opened.config is not None
        data, trainer, shape = opened.data, opened.trainer, opened.data.image_shape
        records = list(part.store.whole(self._known(part, opened)))
        finished = [record for record in records if record.failure is None]
        damaged = {r.index for r in finished if row.attack is not None and saved_image(part.store, r, shape) is None}
        usable = [record for record in finished if record.index not in damaged]
        if not usable:
            self.add(part.name, Verdict("judged again", None, "no sample has a result and a readable image"))
            return
        judged = again.judge(row, usable, data, trainer)
        exact = rounds_alike(usable, judged, self.modes[part.row])
        attacked = None
        if row.attack is not None and self.samples:
            chosen = self._chosen(records)
            own = [record for record in records if record.index in chosen]
            images = {record.index: saved_image(part.store, record, shape) for record in own}
            attacked = own, images, *again.attack(row, own, data, trainer)
            exact = exact or bool(compare_attacked(*attacked, exact=True, level=level).passed)
        for verdict in compare_judged(finished, judged, exact, opened.config.precision):
            self.add(part.name, verdict)
        if (verdict := compare_certificates(usable, judged, exact)) is not None:
            self.add(part.name, verdict)
        if _is_random(part, row):
            fresh = again.judge(row, usable, data, trainer, self.seed)
            self.add(part.name, compare_fresh(usable, fresh, level, self.seed))
        if attacked is not None:
            self.add(part.name, compare_attacked(*attacked, exact=exact, level=level))
        elif row.attack is not None:
            self.add(part.name, Verdict("attacked again", None, "--samples is 0"))

    def _chosen(self, records: Sequence[Record]) -> set[int]:
        """Samples to attack again, drawn so that nobody can know them before."""
        chosen: set[int] = set()
        for failed in (False, True):
            indices = sorted({record.index for record in records if (record.failure is not None) == failed})
            chosen |= set(secrets.SystemRandom().sample(indices, min(self.samples, len(indices))))
        return chosen

    def _check_report(self, opened: "Reopened") -> None:
        from hetpure.evaluation.report import RunReport

        assert opened.resolved is not None
        if not any(verdict.check == "table" and verdict.passed for verdict in self.verdicts.get("", [])):
            return
        if any(v.check == "inside the ball" and v.passed is False for of in self.verdicts.values() for v in of):
            self.add("", Verdict("report", None, "adversarial images are damaged"))
            return
        self.add("", check_report(self.folder, RunReport(opened.resolved).make()))

    def _absent(self) -> set[str]:
        """Rows that the run says it could not evaluate."""
        try:
            return set(read_results(self.folder).missing) if (self.folder / RESULTS).is_file() else set()
        except ConfigError:
            return set()


def saved_image(store: RecordStore, record: Record, shape: tuple[int, int, int]) -> np.ndarray | None:
    """A saved adversarial image, float32; None where it is missing, damaged or of another shape."""
    image = store.adversarial(record)
    return image if image is not None and image.shape == shape else None


def _clean(opened: "Reopened", index: int) -> np.ndarray:
    from hetpure.data.items import item

    assert opened.data is not None
    return item(opened.data.test_source, index)["image"].numpy()


def _is_random(part: Part, row: "Row") -> bool:
    """Whether a part has fresh draws to be judged with: not an honesty variant, whose comparisons are paired."""
    return part.variant is None and row.model.stochastic
