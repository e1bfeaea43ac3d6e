"""The attack to use where nothing else is asked for: an alias that is written out in the saved config."""

from collections.abc import Mapping
from typing import Any

VERSIONS: dict[str, dict[str, Any]] = {
    "recommended_1": {"name": "momentum_pgd", "steps": 100, "eot": 4},
}
"""Settings by a name that keeps its meaning. ``recommended`` is the last of them.

No attack left fewer right than version 1 at equal denoiser calls (docs/background/experiments.md).
"""

NAMES = ("recommended", *VERSIONS)


def written_out(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """An ``attack`` section with the settings that a recommended name stands for; its own keys win."""
    name = settings.get("name")
    if name not in NAMES:
        return settings
    version = list(VERSIONS)[-1] if name == "recommended" else name
    return {**VERSIONS[version], **{key: value for key, value in settings.items() if key != "name"}}
