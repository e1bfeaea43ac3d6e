"""What a run changes in the settings of the printed table that it stands beside."""

from omegaconf import DictConfig

from hetpure.config import read_config, to_dict
from hetpure.errors import ConfigError
from hetpure.evaluation.config import complete
from hetpure.evaluation.content import PLACES
from hetpure.runs.claim import ALWAYS_FREE, differences

IRRELEVANT = (
    *ALWAYS_FREE,
    "table",
    "pictures",
    "honesty",
    "threads",
    "hang_minutes",
    "data.batch_size",
    *PLACES,
    *(f"{row}purifier.network.name" for row in ("", "rows.*.")),  # whose code builds the network, with its weights
    *(f"{row}attack.recompute" for row in ("", "rows.*.")),
)
"""Keys by which a run may differ from the paper's settings and have them still."""


def departures(config: DictConfig) -> list[str]:
    """What a complete config changes in the settings that ``configs/tables/`` has for its printed table, if any."""
    if not config.table.printed:
        return []
    name = f"tables/{config.table.printed}.yaml"
    try:
        shipped = to_dict(complete({**read_config(name, []), "output": config.output}))
    except ConfigError as error:
        return [f"{name} cannot be compared with: {error}"]
    changes = differences(shipped, to_dict(config), IRRELEVANT)
    whole = [change for change in changes if not change.startswith("rows.")]
    # What is changed in the whole config is changed in its rows too, and is said once.
    return [change for change in changes if change in whole or not any(change.endswith(f".{of}") for of in whole)]
