"""The same method under other attacks: what the honesty checks compare the evaluation with."""

import math
from typing import Any

from omegaconf import DictConfig

from hetpure.attacks.registry import complete_attack
from hetpure.config import structure, to_dict
from hetpure.evaluation.config import EvaluateConfig

HUGE = 64 / 255
HUGE_FACTOR = 8
"""A perturbation per pixel that no defense of an image can undo, and how many times the attack's eps it is at least:
64/255 is next to nothing where pictures are black and white and eps is 0.15."""


def variants(row: DictConfig, image_shape: tuple[int, int, int], stochastic: bool) -> dict[str, DictConfig]:
    """The complete config of each variant by name; those that mean nothing for the row's attack are left out.

    ``more_steps``, ``more_eot`` and ``larger_eps`` multiply that number by ``honesty.factor``. ``huge_eps`` allows
    64/255 a pixel (L2: the length of that) or eight times the eps, up to all that a pixel can change, with more
    iterations and steps that can reach it. ``random_noise`` has the attack's norm and asks nobody; how the attacker
    would see the defense stays. ``transfer`` attacks the undefended classifier.

    Args:
        row: the row's complete config.
        image_shape: (C, H, W).
        stochastic: whether the row's purifier is.
    """
    attack, factor = to_dict(row.attack), row.honesty.factor
    if "eps" not in attack:
        return {}
    found: dict[str, dict[str, Any]] = {}
    if "steps" in attack:
        found["more_steps"] = {"steps": factor * attack["steps"]}
    if stochastic:
        found["more_eot"] = {"eot": factor * attack["eot"]}
    found["larger_eps"] = {"eps": factor * attack["eps"]}
    found["huge_eps"] = {**found.get("more_steps", {}), **_huge(attack, image_shape)}
    changed = {name: {**attack, **change} for name, change in found.items()}
    changed["random_noise"] = {key: attack[key] for key in ("norm", "eps", "gradient", "process")} | {
        "name": "random_noise"
    }
    if row.purifier.name != "none":
        # Nothing that the attacker does to the defense's own process means anything for a bare classifier.
        changed["transfer"] = {k: v for k, v in attack.items() if k != "gradient"} | {"process": {"name": "none"}}
    plain = {**to_dict(row), "rows": {}, "protocols": {"resubmissions": 1, "votes": 0}}
    plain["honesty"] = {**plain["honesty"], "images": 0}
    return {
        name: structure(EvaluateConfig, {**plain, "attack": complete_attack(settings)})
        for name, settings in changed.items()
    }


def _huge(attack: dict[str, Any], image_shape: tuple[int, int, int]) -> dict[str, Any]:
    whole = 1.0 if attack["norm"] == "Linf" else math.sqrt(math.prod(image_shape))
    eps = max(min(max(HUGE * whole, HUGE_FACTOR * attack["eps"]), whole), attack["eps"])
    change = {"eps": eps}
    if "step_size" in attack and "steps" in attack:
        change["step_size"] = max(attack["step_size"], 2.5 * eps / attack["steps"])
    return change
