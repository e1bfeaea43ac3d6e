"""Verdicts on records of two evaluations, from records alone."""

import dataclasses

import numpy as np
import pytest

from hetpure.runs.records import Record
from hetpure.verification.compare import LEVEL, compare_attacked, compare_fresh, compare_judged, rounds_alike

CHUNKS = {"attack": 4, "defense": 4}


def record(index: int, right: bool = True, shift: float = 0.0, clean: bool = True) -> Record:
    """A record of class 0: right or wrong under the attack, its scores shifted."""
    scores = [2.0 + shift, 1.0] if right else [1.0 + shift, 2.0]
    clean_scores = [3.0 + shift, 1.0] if clean else [1.0 + shift, 3.0]
    decision, clean_decision = int(not right), int(not clean)
    return Record(
        index, "one-shot", 0, [clean_decision], [clean_scores], [decision], [scores], [1.0 + shift], [0.1], [1.0],
        chunks=CHUNKS, image="adversarial/000000.npz",
    )  # fmt: skip


def records(count: int, shift: float = 0.0, wrong: int = 0) -> list[Record]:
    """``count`` records, of which the first ``wrong`` are wrong under the attack."""
    return [record(index, index >= wrong, shift) for index in range(count)]


# ---- the same draws


def test_bits_are_compared_where_this_machine_gives_them() -> None:
    run, again = records(10), records(10)
    assert rounds_alike(run, again, "mean_logits")
    run[3] = dataclasses.replace(run[3], adversarial_scores=[[2.0 + 1e-7, 1.0]])
    judged, bits = compare_judged(run, again, exact=True)
    assert judged.passed and bits.passed is False and "sample 3, adversarial image, one-shot" in bits.details


def test_rounding_is_no_failure_on_another_machine() -> None:
    run, again = records(10), records(10, shift=1e-5)
    assert not rounds_alike(run, again, "mean_logits")
    judged, bits = compare_judged(run, again, exact=False)
    assert judged.passed and bits.passed is None
    judged, _ = compare_judged(run, records(10, shift=1e-2), exact=False)
    assert judged.passed is False
    judged, _ = compare_judged(run, records(10, shift=1e-2), exact=False, precision="bfloat16")
    assert judged.passed


def test_one_flipped_sample_does_not_pass_for_another_machine() -> None:
    """Neither in its own clean scores nor in a large run, where another machine would be forgiven a few samples."""
    again = records(100)
    run = [record(0, clean=False), *again[1:]]
    assert rounds_alike(run, again, "mean_logits")
    judged, _ = compare_judged(run, again, exact=True)
    assert judged.passed is False and "sample 0, clean image, one-shot: class 0, recorded 1" in judged.details


def test_shares_of_votes_do_not_tell_machines_apart() -> None:
    assert not rounds_alike(records(4), records(4), "vote")
    assert all(verdict.passed for verdict in compare_judged(records(4), records(4), exact=False))


def test_a_sample_that_cannot_be_judged_fails() -> None:
    judged, _ = compare_judged(records(4), records(3), exact=True)
    assert judged.passed is False and "sample 3" in judged.details


# ---- fresh draws


@pytest.mark.parametrize(("lucky", "passed"), [(10, True), (11, False)])
def test_fresh_draws_allow_what_chance_does(lucky: int, passed: bool) -> None:
    """Samples that are right with the recorded draws only: 2^-9 is above a level of LEVEL, 2^-10 below."""
    verdict = compare_fresh(records(40), records(40, wrong=lucky), LEVEL, 5)
    assert verdict.passed is passed and "seed 5" in verdict.details
    assert compare_fresh(records(40, wrong=lucky), records(40), LEVEL, 5).passed is passed, "two-sided"


def test_an_honest_run_rarely_fails() -> None:
    """Of 400 honest runs of 50 samples with right answers by chance, at most the level's share may."""
    generator = np.random.default_rng(0)
    failures = 0
    for _ in range(400):
        chance = generator.random(50)
        a, b = generator.random((2, 50)) < chance
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        run = [record(i, i < only_a) for i in range(only_a + only_b)]
        fresh = [record(i, i >= only_a) for i in range(only_a + only_b)]
        failures += compare_fresh(run, fresh, 0.05, 0).passed is False
    assert 0 < failures < 0.05 * 400


# ---- the attack again


def images(count: int, value: float = 0.5) -> dict[int, np.ndarray]:
    return {index: np.full((1, 2, 2), value, np.float32) for index in range(count)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attack_loss": [1.0, 2.0]}, "another number of gradients (2, here 1)"),
        ({"attack_loss": [1.5]}, "other losses"),
        ({"gradient_size": [0.2]}, "other gradients"),
        ({"failure": "not finite"}, "another failure"),
        ({"adversarial": [1]}, "another decision"),
    ],
)
def test_an_attack_again_gives_the_same_bits(change: dict, says: str) -> None:
    again = records(2)
    same = compare_attacked(again, images(2), again, images(2), True, LEVEL)
    assert same.passed and "2 sample(s) (0, 1)" in same.details
    run = [dataclasses.replace(again[0], **change), again[1]]
    verdict = compare_attacked(run, images(2), again, images(2), True, LEVEL)
    assert verdict.passed is False and f"sample 0: {says}" in verdict.details


def test_other_images_fail_where_bits_are_alike() -> None:
    run = records(2)
    other = {**images(2), 1: np.nextafter(images(2)[1], np.float32(1))}
    verdict = compare_attacked(run, images(2), run, other, True, LEVEL)
    assert verdict.passed is False and verdict.details == "sample 1: another image"


@pytest.mark.parametrize(
    ("here_breaks", "run_breaks", "passed"),
    [(2, 2, None), (20, 20, True), (20, 9, False), (20, 15, True), (0, 20, None)],
)
def test_where_bits_differ_strength_is_compared(here_breaks: int, run_breaks: int, passed: bool | None) -> None:
    """Weaker images fail; equally weak and equally strong ones can be told apart only if the attack breaks enough."""
    run, again = records(30, wrong=run_breaks), records(30, shift=1e-5, wrong=here_breaks)
    verdict = compare_attacked(run, images(30), again, images(30, 0.4), False, LEVEL)
    assert verdict.passed is passed
