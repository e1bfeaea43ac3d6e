"""What a run changes in the settings of the printed table that it is compared with."""

from hetpure.config import read_config, to_dict
from hetpure.errors import ConfigError
from hetpure.evaluation.config import RunSettings, complete
from hetpure.evaluation.content import PLACES
from hetpure.runs.claim import ALWAYS_FREE, differences

_OF_ROWS = ("purifier.network.name", "attack.recompute")  # whose code builds the network, with its weights; memory

IRRELEVANT = (
    *ALWAYS_FREE, *PLACES, "table", "pictures", "honesty", "threads", "hang_minutes", "data.batch_size", *_OF_ROWS,
    *(f"rows.*.{key}" for key in _OF_ROWS),
)  # fmt: skip
"""Keys that may differ from the paper's settings without a note."""


def departures(config: RunSettings) -> list[str]:
    """Changes of a config in the settings that ``configs/tables/`` has for its printed table, if it has one."""
    if not config.table.printed:
        return []
    name = f"tables/{config.table.printed}.yaml"
    try:
        shipped = complete({**read_config(name, []), "output": config.output})
    except ConfigError as error:
        return [f"{name} cannot be compared with: {error}"]
    changes = differences(to_dict(shipped), to_dict(config), IRRELEVANT)
    shared = [change for change in changes if not change.startswith("rows.")]
    # A change of the whole config is one of its rows too, and is listed once.
    return [change for change in changes if change in shared or not any(change.endswith(f".{of}") for of in shared)]
