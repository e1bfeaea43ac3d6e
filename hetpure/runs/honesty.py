"""Honesty checks: signs that a robust accuracy is due to a weak attack and not to a strong defense.

Carlini et al. (2019), "On evaluating adversarial robustness", lists most of them. Each check is one function from
records to a verdict. Attacks are compared on the same samples under the same draws of the defender; only samples that
one attack broke and the other did not carry information (exact one-sided sign test, McNemar's).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.stats import binomtest, ttest_1samp

from hetpure.runs.names import VARIANTS
from hetpure.runs.records import Record
from hetpure.runs.results import Verdict

LEVEL = 0.05  # significance level of every test
TOLERATED = 0.05  # share of images that may be right at a huge eps: a random prediction is sometimes right by chance
MARGIN = 2.0**-22  # rounding error allowed per float32 value near 1
NORMS = ("Linf", "L2")


def loss_rises(records: Sequence[Record], run_length: int | None = None) -> Verdict:
    """The attacker's loss ends higher than it began: its last quarter against its first value, paired t-test.

    Of an attack with several runs whose losses cannot be compared only the first run counts, of ``run_length``.
    """
    name = "loss rises"
    curves = [np.asarray(record.attack_loss[:run_length]) for record in records if record.adversarial]
    curves = [curve for curve in curves if len(curve) > 1]
    if not curves:
        return Verdict(name, None, "the attack recorded no losses of two or more iterations")
    rises = np.array([curve[-max(len(curve) // 4, 1) :].mean() - curve[0] for curve in curves])
    p = 0.0
    if len(rises) > 1 and rises.std() > 0.0:
        test: Any = ttest_1samp(rises, 0.0, alternative="greater")
        p = float(test.pvalue)
    first = float(np.mean([curve[0] for curve in curves]))
    details = (
        f"from {first:.3g} to {first + rises.mean():.3g} on average, "
        f"higher in {(rises > 0).sum()} of {len(rises)} images (paired t-test, p = {p:.2g})"
    )
    return Verdict(name, bool(rises.mean() > 0.0 and p < LEVEL), details)


def never_raises(name: str, change: str, base: Sequence[Record], stronger: Sequence[Record]) -> Verdict:
    """A stronger attack, changed by ``change`` in words, leaves no more images right, beyond noise."""
    pair = _paired(base, stronger)
    details = (
        f"{pair.right_a} of {pair.count} images right, {pair.right_b} with {change} ({pair.only_a} broken only with "
        f"it, {pair.only_b} only without it, p = {pair.p_weaker:.2g} that it is weaker)"
    )
    return pair.verdict(name, pair.p_weaker >= LEVEL, details)


def huge_eps(base: Sequence[Record], huge: Sequence[Record]) -> Verdict:
    """At 64/255 per pixel or more an attack can replace the image: almost nothing stays right."""
    pair = _paired(base, huge)
    allowed = int(TOLERATED * pair.count)
    details = f"{pair.right_b} of {pair.count} images right at a huge eps (up to {allowed} allowed)"
    return pair.verdict("huge eps", pair.right_b <= allowed, details)


def random_noise(base: Sequence[Record], noise: Sequence[Record]) -> Verdict:
    """Random noise of the same norm breaks far fewer images: at most half as many, and significantly fewer.

    No verdict if the attack breaks more but too few images to be significant.
    """
    pair = _paired(base, noise)
    broken_by_attack, broken_by_noise = pair.clean - pair.right_a, pair.clean - pair.right_b
    details = (
        f"of {pair.count} images {pair.clean} right when clean, {pair.right_b} with random noise, {pair.right_a} "
        f"attacked (sign test, p = {pair.p_weaker:.2g})"
    )
    if broken_by_attack <= 0 or 2 * broken_by_noise > broken_by_attack:
        return pair.verdict("random noise", False, details)
    if pair.p_weaker < LEVEL:
        return pair.verdict("random noise", True, details)
    return pair.verdict("random noise", None, f"{details}: too few images to tell")


def transfer(base: Sequence[Record], transferred: Sequence[Record]) -> Verdict:
    """Images made against the undefended classifier break no more than those made against the defense."""
    pair = _paired(base, transferred)
    details = (
        f"{pair.right_a} of {pair.count} images right under the white-box attack, {pair.right_b} under the same attack "
        f"on the undefended classifier (p = {pair.p_stronger:.2g} that the latter is stronger)"
    )
    return pair.verdict("transfer", pair.p_stronger >= LEVEL, details)


def gradients(records: Sequence[Record]) -> Verdict:
    """No gradient is zero, NaN or infinite."""
    name = "gradients"
    broken = sorted({record.index for record in records if record.failure is not None})
    sizes = {record.index: record.gradient_size for record in records if record.gradient_size}
    if not sizes and not broken:
        return Verdict(name, None, "the attack computed no gradients")
    every = [size for values in sizes.values() for size in values]
    zero = sorted(index for index, values in sizes.items() if 0.0 in values)
    details = f"largest entry of a gradient at least {min(every, default=float('nan')):.2g} in {len(every)} gradients"
    if zero:
        details += f"; zero {every.count(0.0)} times, in {len(zero)} of {len(sizes)} images ({_first(zero)})"
    if broken:
        details += f"; not finite in {len(broken)} images ({_first(broken)})"
    return Verdict(name, not zero and not broken, details)


def certificates(records: Sequence[Record], n: int, alpha: float) -> Verdict:
    """No adversarial image within its certified radius moves most of n draws to other classes: that would be a bug.

    Each such image is tested at the level alpha, and its certificate is wrong with a probability of alpha at most.
    """
    name = "certificates"
    covered = {r.index: r.certificate for r in records if r.certificate is not None and r.certificate.covers_attack}
    if not covered:
        return Verdict(name, None, "no adversarial image lies within a certified radius")
    broken = [index for index, certificate in covered.items() if certificate.is_broken(n, alpha)]
    chance = f"at most {2 * alpha * len(covered):.2g} expected by chance"
    details = f"{len(covered)} adversarial images lie within their certified radius, {len(broken)} break it ({chance})"
    return Verdict(name, not broken, f"{details}: {_first(broken)}" if broken else details)


def blind(records: Sequence[Record]) -> str | None:
    """In how many images every gradient was exactly zero, if that is half of them or more; needs no variant.

    A purifier that rounds looks robust to an attack that differentiates it. A few images without a gradient are no
    such sign: a confident classifier alone leaves them.
    """
    sizes = {record.index: record.gradient_size for record in records if record.gradient_size}
    count = sum(not any(values) for values in sizes.values())
    return f"{count} of {len(sizes)} images" if sizes and 2 * count >= len(sizes) else None


def inside(
    records: Sequence[Record],
    norm: str,
    eps: float,
    saved: Callable[[Record], np.ndarray | None],
    clean: Callable[[int], np.ndarray],
) -> Verdict:
    """Every saved adversarial image is in the ball and in [0, 1], up to the rounding of float32.

    An image does not show how far it is in another threat model. There is no verdict, unless it cannot be inside: for
    values outside [0, 1], or, under ``StAdv``, values that no pixel has as near as the flow reaches.

    Args:
        records: of all samples.
        norm: ``Linf``, ``L2``, or another threat model's.
        eps: the ball's radius.
        saved: a record's adversarial image as saved.
        clean: the clean image of an index.
    """
    furthest, checked, low, high, outside = 0.0, 0, 1.0, 0.0, []
    for record in {record.index: record for record in records if record.image is not None}.values():
        image = saved(record)
        if image is None:
            outside.append(record.index)
            continue
        original = clean(record.index)
        if norm in NORMS:
            delta = (image.astype(np.float64) - original).ravel()
            length = float(np.abs(delta).max() if norm == "Linf" else np.linalg.norm(delta))
            furthest = max(furthest, length)
            possible = length <= eps + MARGIN * (1.0 if norm == "Linf" else delta.size**0.5)
        else:
            possible = norm != "StAdv" or _is_warped(image, original, eps)
        checked, low, high = checked + 1, min(low, float(image.min())), max(high, float(image.max()))
        if not (possible and image.min() >= 0.0 and image.max() <= 1.0):
            outside.append(record.index)
    if not checked and not outside:
        return Verdict("inside the ball", None, "no adversarial images")
    away = f"at most {furthest:.6g} away ({norm}, eps {eps:.6g})" if norm in NORMS else f"{norm} eps {eps:.6g}"
    details = f"{checked} images, {away}, values {low:g} to {high:g}"
    if outside:
        return Verdict("inside the ball", False, f"{details}; outside: {len(outside)} ({_first(outside)})")
    if norm in NORMS:
        return Verdict("inside the ball", True, details)
    return Verdict("inside the ball", None, f"{details}: the images alone do not show how far they are")


def _is_warped(image: np.ndarray, clean: np.ndarray, eps: float) -> bool:
    """Whether images (C, H, W) can be warps of each other: whether each value is between those that its flow reaches.

    The flow is in units of half the image's sides. Beyond the edge may be black, as public code has it.
    """
    window = (1, *(2 * math.ceil(eps * side / 2.0) + 1 for side in clean.shape[1:]))
    lowest, highest = (find(clean, size=window, mode="constant") for find in (minimum_filter, maximum_filter))
    return bool(((image >= lowest - 4 * MARGIN) & (image <= highest + 4 * MARGIN)).all())


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
        variants: one-shot records of each variant by its name.
        factor: by how much the stronger variants are stronger.
        saved: see ``inside``.
        clean: see ``inside``.
        run_length: see ``loss_rises``.
        norm: of the attack's threat model; None where it declares none.
        eps: likewise.
    """
    verdicts = [loss_rises(base, run_length)]
    for name, quantity in (("more_steps", "iterations"), ("more_eot", "EOT draws"), ("larger_eps", "eps")):
        change = f"{factor} times the {quantity}"
        if name in variants:
            verdicts.append(never_raises(VARIANTS[name], change, base, variants[name]))
        elif name != "more_eot":  # which a defense without randomness does not have
            verdicts.append(Verdict(VARIANTS[name], None, f"the attack does not declare how it takes {change}"))
    for name, function in (("huge_eps", huge_eps), ("random_noise", random_noise), ("transfer", transfer)):
        if name in variants:
            verdicts.append(function(base, variants[name]))
        elif name != "transfer":  # which an undefended classifier does not have
            reason = "the attack does not declare its threat model" if norm is None else f"{norm} is no norm ball"
            verdicts.append(Verdict(VARIANTS[name], None, reason))
    verdicts.append(gradients(base))
    if norm is None or eps is None:
        verdicts.append(Verdict("inside the ball", None, "the attack does not declare its threat model"))
    else:
        verdicts.append(inside(base, norm, eps, saved, clean))
    return verdicts


@dataclass(frozen=True)
class _Pair:
    """Two attacks on the same samples, a (the evaluation's) and b, and probabilities if both were equally strong."""

    count: int
    clean: int  # right when clean
    right_a: int  # right under a
    right_b: int
    only_a: int  # right under a, broken by b
    only_b: int
    p_weaker: float  # of so many samples right only under b
    p_stronger: float  # of so many samples broken only by b

    def verdict(self, check: str, passed: bool | None, details: str) -> Verdict:
        return Verdict(check, passed, details) if self.count else Verdict(check, None, "no records to compare")


def _paired(base: Sequence[Record], other: Sequence[Record]) -> _Pair:
    a, b = ({r.index: r for r in records if r.adversarial} for records in (base, other))
    common = a.keys() & b.keys()
    clean = sum(bool(a[index].right("clean")) for index in common)
    right_a, right_b = ({index for index in common if of[index].right("adversarial")} for of in (a, b))
    only_a, only_b = len(right_a - right_b), len(right_b - right_a)
    p_weaker, p_stronger = sign_test(only_b, only_a), sign_test(only_a, only_b)
    return _Pair(len(common), clean, len(right_a), len(right_b), only_a, only_b, p_weaker, p_stronger)


def sign_test(more: int, fewer: int) -> float:
    """The probability of at least ``more`` of ``more + fewer``, if either is as likely."""
    return float(binomtest(more, more + fewer, alternative="greater").pvalue) if more + fewer else 1.0


def _first(indices: Sequence[int]) -> str:
    return ", ".join(f"sample {index}" for index in indices[:3]) + (", .." if len(indices) > 3 else "")
