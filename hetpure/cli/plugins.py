"""List purifiers, attacks, gradient modes, training objectives, losses and denoiser formats with their keys.

Besides this package's, those that installed packages offer as entry points are listed. Everywhere a name is taken, so
is FILE.py:Class or package.module:Class.
"""

import argparse
from importlib.util import find_spec

from hetpure.attacks.recommended import VERSIONS
from hetpure.attacks.registry import ATTACKS, COMMON, GRADIENTS, LIBRARIES
from hetpure.attacks.registry import SUPPLIED as SUPPLIED_TO_GRADIENTS
from hetpure.config.plugins import entry_points
from hetpure.config.registry import Registry, constructor_arguments
from hetpure.purification.registry import NETWORKS, PURIFIERS
from hetpure.training.objectives.registry import OBJECTIVES

LISTS: tuple[tuple[str, Registry, tuple[str, ...]], ...] = (
    ("purifier.name", PURIFIERS, NETWORKS),
    ("attack.name", ATTACKS, ()),
    ("attack.gradient.name", GRADIENTS, SUPPLIED_TO_GRADIENTS),
    ("objective.name", OBJECTIVES, ("schedule", "timesteps")),
)
"""Config key, registry, and arguments that are no keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments: none."""


def run(options: argparse.Namespace) -> None:
    """Prints the lists."""
    from hetpure.attacks import losses
    from hetpure.models import denoisers

    for key, registry, supplied in LISTS:
        print(f"{key} (entry points: {registry.group})")
        offered = {**entry_points(registry.group), **registry.targets}
        width = max(map(len, offered)) + 2
        for name, target in offered.items():
            keys = [argument for argument in constructor_arguments(target) or () if argument not in supplied]
            origin = "" if name in registry.targets else f"  [{target}]"
            print(f"  {name:{width}}{', '.join(keys) or '-'}{origin}")
        print()
    print(f"every attack also has: {', '.join(key for key in COMMON if key != 'name')}")
    for name, settings in VERSIONS.items():
        print(f"attack.name {name}: {', '.join(f'{key} {value}' for key, value in settings.items())}")
    libraries = [f"{name}:CLASS" + ("" if find_spec(name) else " (not installed)") for name in LIBRARIES]
    print(f"attack.name, of other libraries: {', '.join(libraries)}")
    for key, group, names in (
        ("attack.loss", losses.GROUP, losses.LOSSES),
        ("denoiser.format", denoisers.GROUP, denoisers.FORMATS),
    ):
        installed = [f"{name} [{target}]" for name, target in entry_points(group).items()]
        print(f"{key} (entry points: {group}): {', '.join([*names, *installed])}")
