"""An attack says in a few words what it is: what is default and unremarkable is left out."""

import pytest

from hetpure.attacks.apgd import APGD
from hetpure.attacks.autoattack import AutoAttack
from hetpure.attacks.base import Attack
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.attacks.random_noise import RandomNoise


@pytest.mark.parametrize(
    ("attack", "title"),
    [
        (PGD(), "PGD Linf eps 8/255, 200 steps of 0.007"),
        (
            PGD("L2", 0.5, 20, 0.125, "dlr", True, restarts=2),
            "PGD L2 eps 0.5, 20 steps of 0.125, dlr, random start, 2 restarts",
        ),
        (APGD("Linf", 0.03), "APGD-CE Linf eps 0.03, 100 steps"),
        (APGD("L2", 1 / 255, 7, "dlr", restarts=2), "APGD-DLR L2 eps 0.00392157, 7 steps, 2 restarts"),
        (APGD(loss="margin"), "APGD-margin Linf eps 8/255, 100 steps"),
        (APGD(loss="dlr_targeted", targets=3), "APGD-T Linf eps 8/255, 100 steps, 3 targets"),
        (MomentumPGD(steps=9), "momentum PGD Linf eps 8/255, 9 steps"),
        (MomentumPGD(loss="margin"), "momentum PGD Linf eps 8/255, 200 steps, margin"),
        (AutoAttack(steps=5), "AutoAttack rand Linf eps 8/255, 5 steps"),
        (RandomNoise("L2", 0.5), "random noise L2 eps 0.5"),
    ],
)
def test_titles(attack: Attack, title: str) -> None:
    assert str(attack) == title
