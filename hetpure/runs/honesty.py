"""Honesty checks: signs that a robust accuracy is the attack's weakness and not the defense's strength.

Carlini et al. (2019), "On evaluating adversarial robustness", lists most of them. Each check is one function from
records to a verdict with its numbers in words. Comparisons are paired: the same samples under the same defender's
draws, and only those that one attack broke and the other did not say anything (exact one-sided sign test, McNemar's).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_1samp

from hetpure.runs.records import Record

LEVEL = 0.05
"""Of every test."""

TOLERATED = 0.05
"""Share of images that may be right at a huge eps: a randomised prediction is right by chance now and then."""

MARGIN = 2.0**-22
"""Rounding of float32 values near 1, per value."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        check: its name.
        passed: whether; None where it does not apply, lacks records, or cannot tell.
        details: the numbers, in words.
    """

    check: str
    passed: bool | None
    details: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "no verdict"}[self.passed]
        return f"{self.check}: {mark}. {self.details}"


def loss_rises(records: Sequence[Record], run_length: int | None = None) -> Verdict:
    """The attacker's loss ends higher than it began: its last quarter against its first value, paired t-test.

    Args:
        records: of the evaluation itself.
        run_length: iterations of one run, where an attack has several with losses that cannot be compared.
    """
    name = "loss rises"
    curves = [record.attack_loss[:run_length] for record in records if record.adversarial]
    curves = [np.asarray(curve) for curve in curves if len(curve) > 1]
    if not curves:
        return Verdict(name, None, "the attack left no losses of two or more iterations")
    rises = np.array([curve[-max(len(curve) // 4, 1) :].mean() - curve[0] for curve in curves])
    spread = len(rises) > 1 and float(rises.std()) > 0.0
    test: Any = ttest_1samp(rises, 0.0, alternative="greater") if spread else None
    p = float(test.pvalue) if spread else 0.0
    begin = float(np.mean([curve[0] for curve in curves]))
    details = (
        f"from {begin:.3g} to {begin + rises.mean():.3g} on average, "
        f"higher in {(rises > 0).sum()} of {len(rises)} images (paired t-test, p = {p:.2g})"
    )
    return Verdict(name, bool(rises.mean() > 0.0 and p < LEVEL), details)


def never_raises(name: str, what: str, base: Sequence[Record], stronger: Sequence[Record]) -> Verdict:
    """A stronger attack leaves no more images right, beyond noise.

    Args:
        name: of the check.
        what: what is stronger, in words.
        base: of the evaluation itself.
        stronger: of the variant.
    """
    pair = _paired(base, stronger)
    if pair is None:
        return Verdict(name, None, "no records to compare")
    details = (
        f"{pair.right_a} of {pair.count} images right, {pair.right_b} with {what} "
        f"({pair.only_a} broken only with it, {pair.only_b} only without it, p = {pair.p_weaker:.2g} that it is weaker)"
    )
    return Verdict(name, pair.p_weaker >= LEVEL, details)


def huge_eps(base: Sequence[Record], huge: Sequence[Record]) -> Verdict:
    """At 64/255 a pixel or more an attack can paint over the image: next to nothing stays right."""
    pair = _paired(base, huge)
    if pair is None:
        return Verdict("huge eps", None, "no records")
    allowed = int(TOLERATED * pair.count)
    details = f"{pair.right_b} of {pair.count} images right at a huge eps (up to {allowed} allowed)"
    return Verdict("huge eps", pair.right_b <= allowed, details)


def random_noise(base: Sequence[Record], noise: Sequence[Record]) -> Verdict:
    """Random noise of the attack's norm does far less harm: at most half as much, and less beyond doubt.

    No verdict where the attack does more harm but too few images were broken to be sure.
    """
    pair = _paired(base, noise)
    if pair is None:
        return Verdict("random noise", None, "no records to compare")
    attack_harm, noise_harm = pair.clean - pair.right_a, pair.clean - pair.right_b
    details = (
        f"of {pair.count} images {pair.clean} right when clean, {pair.right_b} with random noise, {pair.right_a} "
        f"attacked (sign test, p = {pair.p_weaker:.2g})"
    )
    if attack_harm <= 0 or 2 * noise_harm > attack_harm:
        return Verdict("random noise", False, details)
    sure = pair.p_weaker < LEVEL
    return Verdict("random noise", True if sure else None, details if sure else f"{details}: too few images to tell")


def transfer(base: Sequence[Record], transferred: Sequence[Record]) -> Verdict:
    """Images made against the undefended classifier break no more than those made against the defense."""
    pair = _paired(base, transferred)
    if pair is None:
        return Verdict("transfer", None, "no records to compare")
    details = (
        f"{pair.right_a} of {pair.count} images right under the white-box attack, {pair.right_b} under the same attack "
        f"on the undefended classifier (p = {pair.p_stronger:.2g} that the latter is stronger)"
    )
    return Verdict("transfer", pair.p_stronger >= LEVEL, details)


def gradients(records: Sequence[Record]) -> Verdict:
    """No gradient is zero, NaN or infinite anywhere."""
    name = "gradients"
    broken = sorted({record.index for record in records if record.failure is not None})
    sizes = {record.index: record.gradient_size for record in records if record.gradient_size}
    if not sizes and not broken:
        return Verdict(name, None, "the attack asked for no gradients")
    zero = {index: sum(size == 0.0 for size in of) for index, of in sizes.items()}
    vanished = [index for index, count in sorted(zero.items()) if count]
    smallest = min((size for of in sizes.values() for size in of), default=float("nan"))
    details = f"largest entry of a gradient at least {smallest:.2g} in {sum(map(len, sizes.values()))} gradients"
    if vanished:
        details += f"; zero {sum(zero.values())} times, in {len(vanished)} of {len(sizes)} images ({_few(vanished)})"
    if broken:
        details += f"; not finite in {len(broken)} images ({_few(broken)})"
    return Verdict(name, not vanished and not broken, details)


def blind(records: Sequence[Record]) -> str | None:
    """In how many images every gradient was exactly zero, where it is half of them or more; needs no other attack.

    A purifier that rounds looks robust to whoever differentiates it; a confident classifier alone leaves a few images
    without a gradient, which is no sign of that.
    """
    asked = {record.index: record.gradient_size for record in records if record.gradient_size}
    nothing = sum(not any(sizes) for sizes in asked.values())
    return f"{nothing} of {len(asked)} images" if asked and 2 * nothing >= len(asked) else None


def inside(
    records: Sequence[Record],
    norm: str,
    eps: float,
    saved: Callable[[Record], np.ndarray | None],
    clean: Callable[[int], np.ndarray],
) -> Verdict:
    """Every saved adversarial image is in the ball and in [0, 1], as float32 can say it.

    Args:
        records: of all samples.
        norm: ``Linf`` or ``L2``.
        eps: the ball's radius.
        saved: a record's image as it is on disk.
        clean: the image of an index.
    """
    furthest, checked = 0.0, 0
    low, high, outside = 1.0, 0.0, []
    for record in {record.index: record for record in records if record.image is not None}.values():
        image = saved(record)
        if image is None:
            outside.append(record.index)
            continue
        delta = (image.astype(np.float64) - clean(record.index)).ravel()
        length = float(np.abs(delta).max() if norm == "Linf" else np.linalg.norm(delta))
        room = MARGIN * (1.0 if norm == "Linf" else delta.size**0.5)
        furthest, checked = max(furthest, length), checked + 1
        low, high = min(low, float(image.min())), max(high, float(image.max()))
        if not (length <= eps + room and image.min() >= 0.0 and image.max() <= 1.0):
            outside.append(record.index)
    if not checked and not outside:
        return Verdict("inside the ball", None, "no adversarial images")
    details = f"{checked:.0f} images, at most {furthest:.6g} away ({norm}, eps {eps:.6g}), values {low:g} to {high:g}"
    details += f"; outside: {len(outside)} ({_few(outside)})" if outside else ""
    return Verdict("inside the ball", not outside, details)


def check(
    base: Sequence[Record],
    variants: Mapping[str, Sequence[Record]],
    factor: int,
    saved: Callable[[Record], np.ndarray | None],
    clean: Callable[[int], np.ndarray],
    run_length: int | None = None,
    norm: str | None = None,
    eps: float | None = None,
) -> list[Verdict]:
    """All checks of a method. There is no verdict on what its attack does not declare.

    Args:
        base: one-shot records of the evaluation itself.
        variants: one-shot records of each variant; see ``variants``.
        factor: by how much the stronger variants are stronger.
        saved: see ``inside``.
        clean: see ``inside``.
        run_length: see ``loss_rises``.
        norm: of the attack's threat model; None where it declares none.
        eps: likewise.
    """
    stronger = {
        "more_steps": ("more iterations", f"{factor} times the iterations"),
        "more_eot": ("more EOT", f"{factor} times the EOT draws"),
        "larger_eps": ("larger eps", f"{factor} times the eps"),
    }
    verdicts = [loss_rises(base, run_length)]
    for variant, (name, words) in stronger.items():
        if variant in variants:
            verdicts.append(never_raises(name, words, base, variants[variant]))
        elif variant != "more_eot":  # which a defense without randomness does not have
            verdicts.append(Verdict(name, None, f"the attack does not declare how it takes {words}"))
    for variant, function in (("huge_eps", huge_eps), ("random_noise", random_noise), ("transfer", transfer)):
        if variant in variants:
            verdicts.append(function(base, variants[variant]))
        elif variant != "transfer":  # which an undefended classifier does not have
            verdicts.append(Verdict(variant.replace("_", " "), None, "the attack does not declare its threat model"))
    verdicts.append(gradients(base))
    if norm is None or eps is None:
        verdicts.append(Verdict("inside the ball", None, "the attack does not declare its threat model"))
    else:
        verdicts.append(inside(base, norm, eps, saved, clean))
    return verdicts


@dataclass(frozen=True)
class _Pair:
    """Two attacks on the same samples: a, the evaluation's, and b; each number counts samples.

    Attributes:
        count: all of them.
        clean: right when clean.
        right_a: right under a.
        right_b: right under b.
        only_a: right under a, broken by b.
        only_b: right under b, broken by a.
    """

    count: int
    clean: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int

    @property
    def p_weaker(self) -> float:
        """Chance of so many that only b leaves right, if the two were equally strong."""
        return _sign_test(self.only_b, self.only_a)

    @property
    def p_stronger(self) -> float:
        """Chance of so many that only b breaks, if the two were equally strong."""
        return _sign_test(self.only_a, self.only_b)


def _sign_test(more: int, fewer: int) -> float:
    return float(binomtest(more, more + fewer, alternative="greater").pvalue) if more + fewer else 1.0


def _paired(base: Sequence[Record], other: Sequence[Record]) -> _Pair | None:
    ours, theirs = ({r.index: r for r in records if r.adversarial} for records in (base, other))
    common = ours.keys() & theirs.keys()
    if not common:
        return None
    clean = sum(bool(ours[index].right("clean")) for index in common)
    a, b = ({index for index in common if of[index].right("adversarial")} for of in (ours, theirs))
    return _Pair(len(common), clean, len(a), len(b), len(a - b), len(b - a))


def _few(indices: Sequence[int]) -> str:
    return ", ".join(f"sample {index}" for index in indices[:3]) + (", .." if len(indices) > 3 else "")
