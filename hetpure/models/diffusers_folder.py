"""diffusers folders, of a UNet2DModel or of a pipeline around one, and the same from the Hugging Face hub."""

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download

from hetpure.config import resolve_path
from hetpure.errors import AbsentError
from hetpure.models.checkpoints import CheckpointError, one_line
from hetpure.models.denoisers import LINEAR_VP, DiffusersDenoiser
from hetpure.schedule import Schedule

BETAS = {"beta_schedule": "linear", "beta_start": LINEAR_VP.beta_start, "beta_end": LINEAR_VP.beta_end}
SCHEDULE = {**BETAS, "num_train_timesteps": LINEAR_VP.T}
"""What a scheduler's config must say: a checkpoint of another schedule would denoise, but wrongly."""

OTHER_BETAS = {"trained_betas": None, "rescale_betas_zero_snr": False}
DEFAULTS = {"prediction_type": "epsilon", **OTHER_BETAS, "use_flow_sigmas": False}
"""What it may leave out."""


def load_diffusers(path: str) -> DiffusersDenoiser:
    """Loads a diffusers folder (of a UNet2DModel, or of a pipeline with one in ``unet/``) or a hub id.

    A checkpoint without a scheduler's config says nothing about its schedule; it is taken to be the linear VP one.

    Raises:
        AbsentError: where it cannot be found.
        CheckpointError: where it cannot be read, works on latents, or its scheduler is not the linear VP schedule with
            noise prediction.
    """
    folder = resolve_path(path)
    source = str(folder) if folder.exists() else path
    if not folder.exists():
        if path.count("/") != 1 or path.startswith((".", "/", "~")):
            accepted = "a diffusers folder or a hub id OWNER/NAME"
            raise AbsentError("denoiser.path", f"{path}: no such folder", accepted=accepted)
        folder = _fetch_configs(path)
    subfolder = "unet" if (folder / "unet" / "config.json").is_file() else None
    if not (folder / (subfolder or "") / "config.json").is_file():
        raise CheckpointError("holds no config.json; accepted: a folder that diffusers saved")
    _check_pipeline(folder)
    _check_scheduler(folder)
    try:
        unet: Any = UNet2DModel.from_pretrained(
            source, subfolder=subfolder, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except Exception as error:  # diffusers and the hub raise dozens of types
        raise CheckpointError(f"cannot be loaded as a diffusers UNet2DModel: {one_line(error)}") from None
    return DiffusersDenoiser(unet)


def save_diffusers(unet: UNet2DModel, schedule: Schedule, folder: str | Path) -> None:
    """Writes a network as a diffusers folder, with a config of its schedule."""
    # Denoisers keep their weights channels last, and older releases of safetensors refuse to save that.
    copy.deepcopy(unet).to(memory_format=torch.contiguous_format).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    DDPMScheduler(schedule.T, schedule.beta_start, schedule.beta_end, "linear").save_pretrained(folder)


def _fetch_configs(identifier: str) -> Path:
    """A folder with a hub checkpoint's configs alone: they are checked before its weights are downloaded."""
    names = ("config.json", "model_index.json", "scheduler_config.json")
    try:
        patterns = [f"{folder}{name}" for folder in ("", "unet/", "scheduler/") for name in names]
        return Path(snapshot_download(identifier, allow_patterns=patterns))
    except Exception as error:  # the hub raises dozens of types
        raise AbsentError("denoiser.path", f"{identifier}: not available from the hub: {one_line(error)}") from None


def _check_pipeline(folder: Path) -> None:
    """Refuses latent diffusion: its UNet may have three channels too."""
    file = folder / "model_index.json"
    if file.is_file() and (latent := {"vae", "vqvae"} & _read_json(file).keys()):
        raise CheckpointError(f"{file.name} has a {latent.pop()}; accepted: denoisers of images, not of latents")


def _check_scheduler(folder: Path) -> None:
    """Refuses another schedule. What a config leaves out has the default of the scheduler's class, as in diffusers."""
    files = [folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return
    given = _read_json(file)
    name = str(given.get("_class_name", "DDPMScheduler"))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise CheckpointError(f"{file.name}: _class_name is {name!r}, which is no scheduler of diffusers")
    settings = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items()} | given
    for key, value in {**SCHEDULE, **DEFAULTS}.items():
        if key not in settings and key in SCHEDULE:
            raise CheckpointError(f"{file.name}: {name} has no {key}; accepted: {value!r}")
        if settings.get(key, value) != value:
            raise CheckpointError(f"{file.name}: {key} is {settings[key]!r}; accepted: {value!r}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name} cannot be read as JSON: holds no keys")
    return content
