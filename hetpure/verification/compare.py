"""Verdicts on records beside those of the same samples evaluated again."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest

from hetpure.runs.certificates import Certificate
from hetpure.runs.records import Record, Side
from hetpure.runs.results import Verdict
from hetpure.verification.lines import SHOWN, Problems

LEVEL = 0.001
"""Chance that an honest run fails any of its statistical tests; they share it equally (Bonferroni)."""

ROUNDING = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 1e-1}
"""How far apart scores may be on machines that round differently, relative to a sample's largest, by precision."""

TOLERATED = 0.02
"""Share of samples that may be further apart there: a mask or a vote turns rounding into a step."""

SIDES: tuple[Side, ...] = ("clean", "adversarial")

Key = tuple[int, str]


def rounds_alike(records: Sequence[Record], again: Sequence[Record], mode: str | None) -> bool:
    """Whether this machine gives the recorded bits: the clean images' scores, which nobody can have changed, tell.

    Half of the samples suffice, for single lines may have been changed. Shares of votes do not tell: they are coarse.
    """
    pairs = _pairs(records, again)
    equal = sum(a.clean_scores == b.clean_scores and a.chunks == b.chunks for a, b in pairs)
    return mode != "vote" and bool(pairs) and 2 * equal >= len(pairs)


def compare_judged(
    records: Sequence[Record], again: Sequence[Record], exact: bool, precision: str = "float32"
) -> list[Verdict]:
    """Saved images judged again with the recorded draws: the same decisions, and the same bits of all scores.

    Args:
        records: of the run.
        again: of the same samples.
        exact: whether this machine gives the recorded bits; else scores are compared up to rounding.
        precision: of the run's networks.
    """
    pairs, decided, same = _pairs(records, again), Problems(), Problems()
    apart, worst = set(), 0.0
    for a, b in pairs:
        for side in SIDES:
            if b.failure is not None or getattr(a, side) != getattr(b, side):
                found = b.failure or f"class {_classes(getattr(b, side))}, recorded {_classes(getattr(a, side))}"
                decided.add(f"sample {a.index}, {side} image, {a.protocol}: {found}")
            distance = _distance(_scores(a, side), _scores(b, side))
            worst = max(worst, distance)
            if distance > 0.0:
                same.add(f"sample {a.index}, {side} image, {a.protocol}: scores differ by up to {distance:.2g}")
            if distance > ROUNDING[precision]:
                apart.add(a.index)
    samples = {a.index for a, _ in pairs}
    missing = {record.index for record in records} - samples
    for index in sorted(missing):
        decided.add(f"sample {index} cannot be judged")
    if exact or not (same.texts or decided.texts):
        details = f"{len(samples)} samples, {len(pairs)} lines: equal decisions"
        return [decided.verdict("judged again", details), same.verdict("same bits", "of all scores")]
    allowed = int(TOLERATED * len(samples))
    shown = ", ".join(map(str, sorted(apart)[:SHOWN])) + (", .." if len(apart) > SHOWN else "")
    details = f"scores of {len(apart)} of {len(samples)} samples differ by more than rounding, {allowed} allowed"
    verdict = Verdict("judged again", len(apart) <= allowed and not missing, details + (f" ({shown})" if apart else ""))
    reason = f"clean images score differently here, by up to {worst:.2g}; other hardware or libraries round differently"
    return [verdict, Verdict("same bits", None, reason)]


def compare_certificates(records: Sequence[Record], again: Sequence[Record], exact: bool) -> Verdict | None:
    """Images certified again with the recorded draws: the same votes and radii; None where nothing was certified.

    Where this machine rounds differently, votes may differ by the share ``TOLERATED``.
    """
    problems, count = Problems(), 0
    for record, other in _pairs(records, again):
        a, b = record.certificate, other.certificate
        if a is None and b is None:
            continue
        count += 1
        rounded = a is not None and b is not None and 0 < abs(a.votes - b.votes) <= TOLERATED * max(a.votes, b.votes)
        if a != b and (exact or not rounded):
            problems.add(f"sample {record.index}: {_certificate(b)}, recorded {_certificate(a)}")
    return problems.verdict("certified again", f"{count} certificates, the same") if count else None


def compare_fresh(records: Sequence[Record], fresh: Sequence[Record], level: float, seed: int) -> Verdict:
    """As many samples are right with the recorded draws as with fresh ones, beyond chance.

    Images were made without a look at the defender's draws. So of the samples that are right under one of the two
    alone, either is as likely: two-sided binomial test, for each protocol and side.

    Args:
        records: of the run.
        fresh: of the same samples and images.
        level: of each test.
        seed: of the fresh draws.
    """
    pairs, problems, tests = _pairs(records, fresh), Problems(), []
    for protocol in dict.fromkeys(record.protocol for record in records):
        for side in SIDES:
            own = [(a.right(side), b.right(side)) for a, b in pairs if a.protocol == protocol and getattr(a, side)]
            if not own:
                continue
            only_a, only_b = sum(bool(a and not b) for a, b in own), sum(bool(b and not a) for a, b in own)
            p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
            right_a, right_b = sum(bool(a) for a, _ in own), sum(bool(b) for _, b in own)
            text = f"{protocol}, {side}: {right_a} of {len(own)} right, with seed {seed} {right_b} (p = {p:.2g})"
            tests.append((p, text))
            if p < level:
                problems.add(f"{text}; below {level:.2g}")
    return problems.verdict("fresh draws", f"{len(tests)} comparison(s), the furthest: {min(tests)[1]}")


def compare_attacked(
    records: Sequence[Record],
    images: Mapping[int, np.ndarray | None],
    again: Sequence[Record],
    images_again: Mapping[int, np.ndarray],
    exact: bool,
    level: float,
) -> Verdict:
    """Samples attacked from scratch: the same images, bit for bit, under the same losses.

    Where this machine rounds differently, the attack must not break more samples than the saved images do (one-sided
    binomial test on the samples that only one of the two breaks).

    Args:
        records: of the run, of the samples that were attacked again.
        images: as saved.
        again: records of the attack here.
        images_again: its images.
        exact: whether this machine gives the recorded bits.
        level: of the test.
    """
    check, problems, pairs = "attacked again", Problems(), _pairs(records, again)
    samples = sorted({record.index for record in records})
    name = f"{len(samples)} sample(s) ({', '.join(map(str, samples[:8]))}{', ..' if len(samples) > 8 else ''})"
    for a, b in pairs:
        for what, old, new in (
            ("another image", _bits(images.get(a.index)), _bits(images_again.get(a.index))),
            ("another failure", a.failure, b.failure),
            ("another number of gradients", len(a.attack_loss), len(b.attack_loss)),
            ("other losses", a.attack_loss, b.attack_loss),
            ("other gradients", (a.gradient_size, a.attack_correct), (b.gradient_size, b.attack_correct)),
            ("another decision", a.adversarial, b.adversarial),
            ("other decisions after fewer iterations", a.checkpoints, b.checkpoints),
        ):
            if old != new:
                numbers = f" ({old}, here {new})" if what == "another number of gradients" else ""
                problems.add(f"sample {a.index}: {what}{numbers}")
    if exact or not problems.texts:
        return problems.verdict(check, f"{name}: the same images, bit for bit")
    first = {a.index: (a, b) for a, b in reversed(pairs) if a.adversarial and b.adversarial}.values()
    only_run = sum(bool(a.right("adversarial") and not b.right("adversarial")) for a, b in first)
    only_here = sum(bool(b.right("adversarial") and not a.right("adversarial")) for a, b in first)
    broken = sum(bool(b.right("clean") and not b.right("adversarial")) for _, b in first)
    p = float(binomtest(only_run, only_run + only_here, alternative="greater").pvalue) if only_run + only_here else 1.0
    details = (
        f"{name}: this machine rounds differently, so images differ; {only_run} broken only here, {only_here} only by "
        f"the saved images (p = {p:.2g} that those are weaker)"
    )
    if p < level:
        return Verdict(check, False, f"{details}; below {level:.2g}")
    enough = 0.5**broken < level
    return Verdict(check, True if enough else None, details if enough else f"{details}; too few to tell: --samples")


def _certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return "no certificate"
    return f"class {certificate.label} within {certificate.radius:.4g} by {certificate.votes} votes"


def _pairs(records: Sequence[Record], again: Sequence[Record]) -> list[tuple[Record, Record]]:
    other: dict[Key, Record] = {(record.index, record.protocol): record for record in again}
    keyed = [(record, other.get((record.index, record.protocol))) for record in records]
    return [(a, b) for a, b in keyed if b is not None]


def _scores(record: Record, side: Side) -> list[list[float]]:
    return record.clean_scores if side == "clean" else record.adversarial_scores


def _distance(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Largest difference of two samples' scores, relative to the largest score (at least 1); infinite across shapes."""
    if a == b:
        return 0.0
    x, y = np.array(a), np.array(b)
    if x.shape != y.shape or not x.size:
        return float("inf")
    return float(np.abs(x - y).max() / max(np.abs(y).max(), 1.0))


def _classes(predictions: Sequence[int]) -> str:
    return ", ".join(map(str, predictions))


def _bits(image: np.ndarray | None) -> bytes | None:
    return None if image is None else image.tobytes()
