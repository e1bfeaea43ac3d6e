"""Whether an attack has converged: does a longer attack, or one with more draws, break more images?

An attack whose iterates are those of every shorter one is judged after several numbers of iterations (budgets), with
the defender's same draws. So budgets differ by the attack alone, and only images that are right after one budget and
wrong after the other carry information: exact one-sided sign test between the last two (McNemar's), as the honesty
checks do. A test that finds nothing on few images proves nothing: converged is only what may lose few images more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.stats import binomtest

from hetpure.runs.honesty import LEVEL, sign_test
from hetpure.runs.records import Record
from hetpure.runs.results import Accuracy, Conditions, TableRow, Verdict, accuracy

TOLERATED = 0.1
"""Share of the images that more effort may break, at most and with 95 % confidence, where an attack has converged."""

NAME = "converged"


@dataclass(frozen=True)
class Budget:
    """A row under a shorter attack, or the whole one.

    Attributes:
        iterations: of the attack.
        robust: accuracy of the images after so many.
        calls: of the denoiser for gradients, an image in the mean; None where that is not known.
    """

    iterations: int
    robust: Accuracy
    calls: int | None


def budgets(records: Sequence[Record], calls_per_gradient: int | None) -> list[Budget]:
    """The budgets of records of one protocol, shortest first; empty where there is only one.

    Args:
        records: of a row, under one protocol.
        calls_per_gradient: denoiser calls of one gradient, an image.
    """
    judged = [record for record in records if record.checkpoints and record.adversarial]
    numbers = sorted({int(name) for record in judged for name in record.checkpoints})
    steps = max((len(record.attack_loss) for record in judged), default=0)
    if not numbers or not judged:
        return []
    found = [(number, [_after(record, number) for record in judged]) for number in numbers]
    found.append((max(steps, numbers[-1] + 1), judged))
    return [Budget(n, accuracy(after, "adversarial"), _calls(judged, n, calls_per_gradient)) for n, after in found]


def _calls(records: Sequence[Record], iterations: int, calls_per_gradient: int | None) -> int | None:
    """Denoiser calls of so many iterations; an image that left the attack early has fewer."""
    if calls_per_gradient is None or not records:
        return None
    made = [iterations if r.left_after is None else min(iterations, len(r.attack_loss)) for r in records]
    return round(sum(made) / len(made) * calls_per_gradient)


def verdict(records: Sequence[Record], doubled: Sequence[Record] | None, is_random: bool) -> Verdict:
    """Whether neither more iterations nor twice the draws break more images.

    Args:
        records: one-shot records of a row.
        doubled: of the same row with more EOT draws (an honesty check's variant); None without one.
        is_random: whether the defense is, so that more draws could tell more.
    """
    judged = {r.index: r for r in records if r.checkpoints and r.adversarial}
    if not judged:
        return Verdict(NAME, None, "judged after one number of iterations alone; set attack.checkpoints")
    before = max(int(name) for record in judged.values() for name in record.checkpoints)
    pairs = [(_after(record, before), record) for record in judged.values() if str(before) in record.checkpoints]
    p, more, text = _compared(pairs)
    failed, few = p < LEVEL, more > TOLERATED
    parts = [f"from {before} iterations to the end {text}"]
    others = {r.index: r for r in doubled or () if r.adversarial}
    pairs = [(record, others[index]) for index, record in judged.items() if index in others]
    if pairs:
        p, more, text = _compared(pairs)
        failed, few = failed or p < LEVEL, few or more > TOLERATED
        parts.append(f"with more EOT draws {text}")
    elif is_random:
        parts.append("with more EOT draws not tried (honesty.images)")
    tried = bool(pairs) or not is_random
    return Verdict(NAME, False if failed else True if tried and not few else None, "; ".join(parts))


def with_verdict(
    rows: Sequence[TableRow], records: Sequence[Record], doubled: Sequence[Record] | None
) -> list[TableRow]:
    """A method's rows of the table, which say whether its attack has converged.

    Args:
        rows: one for each protocol, the first protocol's first.
        records: of all protocols.
        doubled: see ``verdict``.
    """
    first = [record for record in records if record.protocol == rows[0].protocol]
    passed = verdict(first, doubled, is_random(rows[0].conditions)).passed
    return [replace(row, converged=passed) for row in rows]


def is_random(conditions: Conditions) -> bool:
    """Whether the defense is random, by how it was measured."""
    return conditions.eot > 1 or conditions.ensemble > 1


def _after(record: Record, iterations: int) -> Record:
    return replace(record, adversarial=record.checkpoints.get(str(iterations), []))


def _compared(pairs: Sequence[tuple[Record, Record]]) -> tuple[float, float, str]:
    """How the second attack compares with the first.

    Returns:
        The probability of so many images broken by it only, if both are equally strong; the share that it only breaks,
        at most, with 95 % confidence (Clopper-Pearson); and both in words.
    """
    outcomes = [(bool(a.right("adversarial")), bool(b.right("adversarial"))) for a, b in pairs]
    only_first, only_second = outcomes.count((True, False)), outcomes.count((False, True))
    p = sign_test(only_first, only_second)
    more = float(binomtest(only_first, len(pairs), alternative="less").proportion_ci(1.0 - LEVEL).high)
    right = [sum(side) for side in zip(*outcomes, strict=True)]
    text = f"{right[0]} -> {right[1]} of {len(pairs)} images right (sign test, p = {p:.2g}; at most {more:.0%} more)"
    return p, more, text
