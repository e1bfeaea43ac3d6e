"""Lightning's W&B logger, quiet."""

from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from hetpure.config.tracking import quiet_settings, wandb_mode


def build_logger(project: str, name: str | None, directory: str | Path, mode: str = "auto") -> WandbLogger | None:
    """A quiet W&B logger.

    Args:
        project: W&B project.
        name: name of the run; W&B makes one up for None.
        directory: folder to write to, made where it is missing.
        mode: see ``wandb_mode``.

    Returns:
        The logger, or None where disabled.

    Raises:
        ConfigError: see ``wandb_mode``.
    """
    if (mode := wandb_mode(mode)) == "disabled":
        return None
    Path(directory).mkdir(parents=True, exist_ok=True)
    offline, settings = mode != "online", quiet_settings(mode)
    logger = WandbLogger(project=project, name=name, save_dir=str(directory), offline=offline, settings=settings)
    # Lightning still hands on an argument that W&B has dropped and warns about in every run.
    logger._wandb_init.pop("anonymous", None)
    return logger
