"""Keys with another name than in earlier versions.

A config with an old key is refused with the new name; the config of an old run folder is upgraded when it is read.
"""

from collections.abc import Mapping
from typing import Any

from hetpure.errors import ConfigError

_BY_NEW_KEY = {
    "grid_size": ("uniform", "heterogeneous", "mimic", "gdmp", "contrastive", "diffpure_sde", "diffpure_ode"),
    "network_calls": ("gns", "lorid", "freqpure"),
    "score_steps": ("adp",),
    "langevin_steps": ("ebm",),
}
RENAMED_PURIFIER_KEYS = {purifier: {"steps": new} for new, purifiers in _BY_NEW_KEY.items() for purifier in purifiers}
"""Old key to new key, by the purifier's name."""


def new_name(purifier: str, key: str) -> str | None:
    """Today's name of a purifier's old key; None if the key was not renamed."""
    return RENAMED_PURIFIER_KEYS.get(purifier, {}).get(key)


def refuse_renamed(purifier: str, settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError, with the new name, for an old key in a purifier's section ``where``."""
    for key in settings:
        if (new := new_name(purifier, key)) is not None:
            raise ConfigError(f"{where}.{key}", f"is now called {where}.{new}")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config of a run folder of format version 1 with today's keys.

    Upgraded are ``purifier`` and ``attack.process``, of the whole config and of each row. ``grid`` keeps its keys: they
    name the folders of its rows (``steps=20``), and the rows themselves hold the upgraded settings.
    """
    whole = _upgrade_row(config, "")
    rows = config.get("rows")
    if isinstance(rows, Mapping):
        purifier = _name(config.get("purifier"), "")
        whole["rows"] = {name: _upgrade_row(row, purifier) for name, row in rows.items()}
    return whole


def _upgrade_row(row: Any, purifier: str) -> Any:
    """A row's sections; ``purifier`` is the name of the whole config's, which a row without its own has."""
    if not isinstance(row, Mapping):
        return row
    result, purifier = dict(row), _name(row.get("purifier"), purifier)
    if "purifier" in row:
        result["purifier"] = _upgrade_purifier(row["purifier"], purifier)
    attack = row.get("attack")
    if isinstance(attack, Mapping) and "process" in attack:
        process = attack["process"]  # what changes in the purifier, perhaps its name
        result["attack"] = {**attack, "process": _upgrade_purifier(process, _name(process, purifier))}
    return result


def _upgrade_purifier(section: Any, purifier: str) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {new_name(purifier, key) or key: value for key, value in section.items()}


def _name(section: Any, default: str) -> str:
    name = section.get("name", default) if isinstance(section, Mapping) else default
    return name if isinstance(name, str) else default
