"""Weights & Biases through Lightning's logger: online where an account is configured, else offline; never a prompt."""

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger

from hetpure.errors import ConfigError


def build_logger(project: str, name: str | None, directory: str | Path, mode: str = "auto") -> WandbLogger | None:
    """A quiet W&B logger.

    Args:
        project: W&B project.
        name: name of the run; W&B makes one up for None.
        directory: folder to write to, made where it is missing.
        mode: ``auto`` is online where an account is configured, else offline; ``disabled`` logs nothing.

    Returns:
        The logger, or None where disabled.

    Raises:
        ConfigError: for another mode, or ``online`` without an account.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise ConfigError(f"wandb.mode: found {mode!r}, accepted are auto, online, offline, disabled")
    if mode == "auto":
        asked = os.environ.get("WANDB_MODE", "")
        mode = asked if asked in ("online", "offline", "disabled") else "online" if has_account() else "offline"
    elif mode == "online" and not has_account():
        raise ConfigError("wandb.mode: online needs an account: set WANDB_API_KEY or run `wandb login`, or use offline")
    if mode == "disabled":
        return None
    Path(directory).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        mode=cast(Literal["online", "offline"], mode),
        # A server that cannot be reached must not hold a run up for long, at its start or its end.
        init_timeout=30.0,
        finish_timeout=120.0,
    )
    logger = WandbLogger(
        project=project, name=name, save_dir=str(directory), offline=mode != "online", settings=settings
    )
    # Lightning still hands on an argument that W&B has dropped and warns about in every run.
    logger._wandb_init.pop("anonymous", None)
    return logger


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
