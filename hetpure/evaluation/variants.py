"""The same method under other attacks: what the honesty checks compare the evaluation with."""

import math
from typing import Any

from hetpure.attacks.base import Attack, Threat
from hetpure.attacks.norms import NORMS
from hetpure.attacks.registry import complete_attack
from hetpure.evaluation.config import RowSettings

HUGE = 64 / 255
"""A perturbation per pixel that no defense of a photograph can undo."""

HUGE_FACTOR = 8
"""A huge eps is at least this many times the attack's: 64/255 is next to nothing where pictures are black and white and
eps is 0.15."""


def variants(
    row: RowSettings, attack: Attack, factor: int, image_shape: tuple[int, int, int], stochastic: bool
) -> dict[str, dict[str, Any]]:
    """The completed ``attack`` section of each variant by name.

    ``more_steps``, ``more_eot`` and ``larger_eps`` multiply that number by ``factor``. ``huge_eps`` allows 64/255 a
    pixel (L2: the length of that) or eight times the eps, up to all that a pixel can change, with more iterations and
    with steps that can reach it. ``random_noise`` has the attack's norm and eps and asks for no gradient. ``transfer``
    attacks the undefended classifier. No image leaves a variant early (``skip_broken``). Left out are variants that the
    attack does not declare, ``more_eot`` of a defense without randomness, ``transfer`` where nothing purifies, and both
    where the images do not depend on the defense or no gradient is asked for; and ``huge_eps`` and ``random_noise`` of
    threat models that are no norm ball.
    """
    settings, threat = {**row.attack, "checkpoints": []}, attack.threat
    if attack.skip_broken:  # so that the checks would also notice what that does
        settings["skip_broken"] = False
    asked = stochastic and attack.uses_defense and attack.uses_gradients
    more_steps = attack.more_steps(factor)
    changes = {"more_steps": more_steps, "more_eot": {"eot": factor * settings["eot"]} if asked else {}}
    if threat is not None:
        changes["larger_eps"] = attack.with_eps(factor * threat.eps)
    if threat is not None and threat.norm in NORMS:
        huge = attack.reaching(huge_eps(threat, image_shape))
        changes["huge_eps"] = {**more_steps, **huge} if huge else {}
    sections = {name: {**settings, **change} for name, change in changes.items() if change}
    if threat is not None and threat.norm in NORMS:
        # How the attacker sees the defense stays: a purifier without derivative accepts no other gradient.
        seen = (
            {key: settings[key] for key in ("gradient", "process")} if attack.uses_gradients else {"gradient": "bpda"}
        )
        sections["random_noise"] = {"name": "random_noise", "norm": threat.norm, "eps": threat.eps, **seen}
    if row.purifier["name"] != "none" and attack.uses_defense and attack.uses_gradients:
        # The attacker's own view of the defense's process does not apply to a bare classifier.
        view = {key: value for key, value in settings.items() if key != "gradient"}
        sections["transfer"] = {**view, "process": {"name": "none"}}
    return {name: complete_attack(section) for name, section in sections.items()}


def huge_eps(threat: Threat, image_shape: tuple[int, int, int]) -> float:
    """A radius within which an attack can paint over an image of (C, H, W)."""
    largest = 1.0 if threat.norm == "Linf" else math.sqrt(math.prod(image_shape))
    return max(min(max(HUGE * largest, HUGE_FACTOR * threat.eps), largest), threat.eps)
