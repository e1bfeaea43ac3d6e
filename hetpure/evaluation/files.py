"""The files that a config names, looked for before anything is downloaded, opened or built."""

from omegaconf import DictConfig

from hetpure.config import to_dict
from hetpure.errors import ConfigError
from hetpure.evaluation.config import in_row, row_configs
from hetpure.models.checkpoints import check_there
from hetpure.purification.registry import needs_denoiser


def check_files(config: DictConfig) -> None:
    """Looks for the weights of every row.

    A denoiser without a ``source`` may be a hub id and is left to its loader.

    Raises:
        ConfigError: on one line, each missing file with its key and where it comes from.
    """
    missing: dict[str, None] = {}  # rows share files: each is said once, in order
    for name, row in row_configs(config).items():
        wanted = [("classifier.weights", row.classifier.weights, row.classifier.source)]
        if needs_denoiser(to_dict(row.purifier)) and row.denoiser.source is not None:
            wanted.append(("denoiser.path", row.denoiser.path, row.denoiser.source))
        for key, path, source in wanted:
            try:
                if path is not None:
                    check_there(path, key, source)
            except ConfigError as error:
                missing[str(in_row(name, config.rows.get(name) or {}, error))] = None
    if missing:
        raise ConfigError("; and ".join(missing))
