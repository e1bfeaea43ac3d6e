"""Weights & Biases: online where an account is configured, else offline; never a prompt."""

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from hetpure.errors import ConfigError, require

MODES = ("auto", "online", "offline", "disabled")

_chosen: dict[str, str] = {}


def wandb_mode(mode: str = "auto") -> str:
    """The mode that W&B runs in: ``auto`` is online where an account is configured, else offline.

    Raises:
        ConfigError: for another mode, or ``online`` without an account.
    """
    require(mode in MODES, "wandb.mode", mode, ", ".join(MODES))
    if mode == "auto":
        from_environment = os.environ.get("WANDB_MODE", "")
        return from_environment if from_environment in MODES[1:] else "online" if has_account() else "offline"
    if mode == "online" and not has_account():
        problem = "which needs an account: set WANDB_API_KEY or run `wandb login`, or use offline"
        raise ConfigError("wandb.mode", problem, found=mode)
    return mode


def quiet_settings(mode: str, directory: Path) -> Any:
    """W&B's settings for a run that prints nothing and waits for no unreachable server.

    An offline run leaves nothing in the home directory: what W&B keeps there goes to ``directory``, which has the run's
    other files, unless the user has chosen a place.
    """
    import wandb

    if mode == "offline":
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            if os.environ.get(name) == _chosen.get(name):  # not the user's: none, or an earlier run's
                os.environ[name] = _chosen[name] = str(directory.resolve() / "wandb")
    # A server that cannot be reached must not hold a run up for long, at its start or its end (wandb 0.27 and later).
    timeouts = {"init_timeout": 30.0, "finish_timeout": 120.0}
    known = {name: seconds for name, seconds in timeouts.items() if name in wandb.Settings.model_fields}
    return wandb.Settings(silent=True, console="off", mode=mode, **known)  # pyright: ignore[reportArgumentType]


def has_account() -> bool:
    """Whether W&B has a key: ``WANDB_API_KEY``, or an entry for its host in the netrc file (``wandb login``'s)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    default = next((p for p in (Path("~/.netrc"), Path("~/_netrc")) if p.expanduser().is_file()), Path("~/.netrc"))
    file = Path(os.environ.get("NETRC") or default).expanduser()
    try:
        return netrc(file).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
