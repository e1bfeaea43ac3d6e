"""The files that a config names, looked for before anything is downloaded, opened or built."""

from functools import partial

from omegaconf import DictConfig

from hetpure.config import to_dict
from hetpure.errors import AbsentError
from hetpure.evaluation.config import in_row, row_configs
from hetpure.models.checkpoints import check_there
from hetpure.purification.registry import check_network, needs_denoiser


def check_files(config: DictConfig) -> None:
    """Looks for the weights of every row.

    Raises:
        AbsentError: on one line, each missing file with its key and where it comes from.
    """
    said: dict[str, None] = {}  # rows share files: each is said once, in order
    for name, missing in missing_files(config).items():
        for error in missing:
            said[str(in_row(name, config.rows.get(name) or {}, AbsentError(error)))] = None
    if said:
        raise AbsentError("; and ".join(said))


def missing_files(config: DictConfig) -> dict[str, list[str]]:
    """The weights that are not here, by row: each file with its key and where it comes from.

    A denoiser without a ``source`` may be a hub id and is left to its loader.
    """
    missing: dict[str, list[str]] = {}
    for name, row in row_configs(config).items():
        wanted = [("classifier.weights", row.classifier.weights, row.classifier.source)]
        if needs_denoiser(to_dict(row.purifier)) and row.denoiser.source is not None:
            wanted.append(("denoiser.path", row.denoiser.path, row.denoiser.source))
        checks = [partial(check_there, path, key, source) for key, path, source in wanted if path is not None]
        for check in (*checks, partial(check_network, to_dict(row.purifier))):
            try:
                check()
            except AbsentError as error:
                missing.setdefault(name, []).append(str(error))
    return missing
