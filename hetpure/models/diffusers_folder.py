"""diffusers folders, of a UNet2DModel or of a pipeline around one, and the same from the Hugging Face hub."""

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download
from torch import Tensor

from hetpure.config import exists, resolve_path
from hetpure.errors import AbsentError
from hetpure.models.checkpoints import (
    CheckpointError,
    State,
    as_state,
    fitted,
    one_line,
    read_file,
    regular_file,
    rename,
)
from hetpure.models.denoisers import LINEAR_VP, Conditioning, DiffusersDenoiser
from hetpure.models.unet_config import check_unet_config
from hetpure.schedule import Schedule

OURS = {
    "beta_schedule": "linear",
    "beta_start": LINEAR_VP.beta_start,
    "beta_end": LINEAR_VP.beta_end,
    "num_train_timesteps": LINEAR_VP.T,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
"""The scheduler's settings of a network that is called as it is, at the timesteps of the linear VP schedule."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")

OTHER_KINDS = ("LCMScheduler", "TCDScheduler")
"""Schedulers with ``alphas_cumprod`` whose networks predict something else."""

LABELS = 1000
"""A flow's network has labels from 1000, where flows begin, to 0, where images are clean."""

LARGEST_T = 100_000

LARGEST_CONFIG = 10_000_000
"""Bytes of a JSON file."""

SAFETENSORS, PICKLE = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"

_FORMER_NAMES = [
    (r"(\.attentions\.\d+)\.(query|key|value)\.", lambda match: f"{match[1]}.to_{match[2][0]}."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
]
"""Of attention weights in early releases of diffusers."""


class NullClassDenoiser(DiffusersDenoiser):
    """A class-conditional ``UNet2DModel``, asked for its last class: the null class of its training."""

    def forward(self, x: Tensor, t: int) -> Tensor:
        timesteps = torch.full((len(x),), t, device=x.device, dtype=torch.long)
        config: Any = self.unet.config
        labels = torch.full_like(timesteps, config.num_class_embeds - 1)
        return self.unet(x, timesteps, class_labels=labels, return_dict=False)[0][:, : self.channels].contiguous()


class MatchedDenoiser(DiffusersDenoiser):
    """A ``UNet2DModel`` of another schedule or prediction, asked at the noise levels of the linear VP schedule.

    Args:
        unet: the network F.
        conditioning: for each timestep, how F predicts the noise; its label may lie between two of F's timesteps.
    """

    def __init__(self, unet: UNet2DModel, conditioning: Sequence[Conditioning]) -> None:
        super().__init__(unet)
        config: Any = unet.config
        # A learned embedding has entries for whole timesteps alone.
        whole = config.time_embedding_type == "learned"
        self.conditioning = [c._replace(label=float(round(c.label))) if whole else c for c in conditioning]
        self.dtype_of_labels = torch.long if whole else torch.float32

    def forward(self, x: Tensor, t: int) -> Tensor:
        scale, label, skip, out = self.conditioning[t]
        labels = torch.full((len(x),), label, device=x.device, dtype=self.dtype_of_labels)
        predicted: Tensor = self.unet(x if scale == 1.0 else scale * x, labels, return_dict=False)[0]
        return (skip * x + out * predicted[:, : self.channels]).contiguous()

    def get_extra_state(self) -> Tensor:
        """The conditioning, as a part of the state dict: the content hash of a network covers it."""
        return torch.tensor(self.conditioning, dtype=torch.float32)

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state, self.get_extra_state()):
            raise ValueError("the weights belong to another conditioning")


def load_diffusers(path: str) -> DiffusersDenoiser:
    """Loads a diffusers folder (of a UNet2DModel, or of a pipeline with one in ``unet/``) or a hub id.

    A network of another variance-preserving schedule, or one that predicts v or x(0), is asked at the matching noise
    levels (see ``match_levels``), a consistency model likewise. A checkpoint without a scheduler's config says nothing
    about its schedule; it is taken to be the linear VP one. The ``unet`` folder of a pipeline has the pipeline's.

    Raises:
        AbsentError: where it cannot be found.
        CheckpointError: where it cannot be read, its weights are not those of its config's network, it works on
            latents, has classes, or has a scheduler of another kind.
    """
    unet, conditioning = _load(path, has_classes=False)
    return DiffusersDenoiser(unet) if conditioning is None else MatchedDenoiser(unet, conditioning)


def load_null_class(path: str) -> DiffusersDenoiser:
    """Loads a diffusers folder of a class-conditional UNet2DModel as the denoiser of its null class, the last one."""
    return NullClassDenoiser(load_conditional(path))


def load_conditional(path: str) -> UNet2DModel:
    """The class-conditional network of a diffusers folder, which predicts the noise on the linear VP schedule.

    Raises as ``load_diffusers`` does; CheckpointError also for another schedule or prediction.
    """
    unet, conditioning = _load(path, has_classes=True)
    if conditioning is not None:
        raise CheckpointError("has classes and another schedule or prediction; accepted: noise on the linear VP one")
    return unet


def _load(path: str, has_classes: bool) -> tuple[UNet2DModel, list[Conditioning] | None]:
    """The network of a folder or hub id, and how it is asked where its schedule is another."""
    folder = resolve_path(path)
    is_local = exists(folder)
    if not is_local:
        if path.count("/") != 1 or path.startswith((".", "/", "~")):
            accepted = "a diffusers folder or a hub id OWNER/NAME"
            raise AbsentError("denoiser.path", f"{path}: no such folder", accepted=accepted)
        folder = _fetch(path, _CONFIGS)
    elif folder.name == "unet" and (folder.parent / "model_index.json").is_file():
        folder = folder.parent  # the pipeline, which knows the schedule
    part = "unet" if (folder / "unet" / "config.json").is_file() else "."
    if not (folder / part / "config.json").is_file():
        raise CheckpointError("holds no config.json; accepted: a folder that diffusers saved")
    _check_pipeline(folder)
    config = _unet_config(folder / part, has_classes)
    conditioning = _conditioning(folder)
    _check_labels(config, range(LINEAR_VP.T) if conditioning is None else (c.label for c in conditioning))

    def fetch(names: Sequence[str]) -> None:
        if not is_local:
            _fetch(path, [str(Path(part, name)) for name in names], revision=folder.name)

    return _network(folder / part, config, fetch), conditioning


def _unet_config(folder: Path, has_classes: bool) -> dict[str, Any]:
    """A network's config, checked."""
    config = _read_json(folder / "config.json")
    check_unet_config(config)
    if ((classes := config.get("num_class_embeds")) is not None) is not has_classes:
        accepted = (
            "the number of classes" if has_classes else "null, or in evaluations denoiser.format diffusers_null_class"
        )
        raise CheckpointError(f"config.json: num_class_embeds is {classes}; accepted: {accepted}")
    return config


def _network(
    folder: Path, config: Mapping[str, Any], fetch: Callable[[Sequence[str]], None] = lambda names: None
) -> UNet2DModel:
    """The network of a config, with the first of the folder's weight files that are there after ``fetch``."""
    for names in _weight_files(folder):
        fetch(names)
        if all(_is_there(folder / name) for name in names):
            return _build_unet(config, _read_weights([folder / name for name in names]))
    raise CheckpointError(f"holds no weights; accepted: {SAFETENSORS} or {PICKLE}")


def save_diffusers(unet: UNet2DModel, schedule: Schedule, folder: str | Path) -> None:
    """Writes a network as a diffusers folder, with a config of its schedule."""
    _save_unet(unet, folder)
    DDPMScheduler(schedule.T, schedule.beta_start, schedule.beta_end, "linear").save_pretrained(folder)


def load_flow(path: str) -> UNet2DModel:
    """The network of a flow's folder, as ``save_flow`` writes it.

    Raises:
        CheckpointError: where the folder does not say that its network predicts velocities, or cannot be read.
    """
    folder = Path(path)
    file = folder / "scheduler_config.json"
    given = _read_json(file) if _is_there(file) else {"_class_name": "no scheduler_config.json"}
    expected = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": LABELS, "shift": 1.0}
    for key, value in expected.items():
        if given.get(key, value) != value:
            problem = f"its scheduler's {key} is {given.get(key)!r:.60}"
            raise CheckpointError(f"{problem}; accepted: a flow, {value}; another network predicts no velocity")
    return _network(folder, _unet_config(folder, has_classes=False))


def save_flow(unet: UNet2DModel, folder: str | Path) -> None:
    """Writes a network that predicts velocities as a diffusers folder, with a config that says so."""
    _save_unet(unet, folder)
    FlowMatchEulerDiscreteScheduler(LABELS).save_pretrained(folder)


def _save_unet(unet: UNet2DModel, folder: str | Path) -> None:
    # Denoisers keep their weights channels last, and older releases of safetensors refuse to save that.
    copy.deepcopy(unet).to(memory_format=torch.contiguous_format).save_pretrained(folder)  # pyright: ignore[reportCallIssue]


_CONFIGS = [
    str(Path(part, name))
    for part in (".", "unet", "scheduler")
    for name in ("config.json", "model_index.json", "scheduler_config.json", INDEX)
]
"""A hub checkpoint's configs: they are checked before its weights are downloaded."""


def _fetch(identifier: str, names: Sequence[str], revision: str | None = None) -> Path:
    """A folder with these files of a hub checkpoint, where it has them."""
    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=list(names)))
    except Exception as error:  # the hub raises dozens of types
        raise AbsentError("denoiser.path", f"{identifier}: not available from the hub: {one_line(error)}") from None


def _weight_files(folder: Path) -> list[list[str]]:
    """The names under which weights may be there, by preference: the parts that an index lists, or one file."""
    if not _is_there(folder / INDEX):
        return [[SAFETENSORS], [PICKLE]]
    parts = _read_json(folder / INDEX).get("weight_map")
    names = list(parts.values()) if isinstance(parts, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{INDEX}: weight_map is no mapping to files of this folder")
    return [sorted(set(names))]


def _read_weights(files: Sequence[Path]) -> State:
    weights: State = {}
    for file in files:
        try:
            part = as_state(read_file(file))
        except CheckpointError as error:
            raise CheckpointError(f"{file.name}: {error}") from None
        if twice := weights.keys() & part.keys():
            raise CheckpointError(f"{file.name}: {min(twice)} is in another file too")
        weights |= part
    return {rename(name, _FORMER_NAMES): value for name, value in weights.items()}


def _build_unet(config: Mapping[str, Any], weights: State) -> UNet2DModel:
    check_unet_config(config, len(weights))
    try:
        with torch.device("meta"):
            unet: Any = UNet2DModel.from_config(dict(config))
    except Exception as error:  # a config may hold anything
        raise CheckpointError(f"config.json: no UNet2DModel can be made of it: {one_line(error, 160)}") from None
    # Not copied: kernels round by a tensor's address, and diffusers itself leaves them where safetensors maps the file.
    unet.load_state_dict(fitted(unet, weights), assign=True)
    return unet


def _check_labels(config: Mapping[str, Any], labels: Iterable[float]) -> None:
    """Refuses a learned embedding without an entry for each timestep that will be asked for."""
    entries = config.get("num_train_timesteps")
    if config.get("time_embedding_type") == "learned" and (entries is None or round(max(labels)) >= entries):
        needed = "a learned embedding needs an entry for every timestep of its schedule"
        raise CheckpointError(f"config.json: num_train_timesteps is {entries}; {needed}")


def _check_pipeline(folder: Path) -> None:
    """Refuses latent diffusion: its UNet may have three channels too."""
    file = folder / "model_index.json"
    if _is_there(file) and (latent := {"vae", "vqvae"} & _read_json(file).keys()):
        raise CheckpointError(f"{file.name} has a {latent.pop()}; accepted: denoisers of images, not of latents")


def match_levels(
    alphas_cumprod: np.ndarray, prediction: str, levels: Sequence[float] | None = None
) -> list[Conditioning]:
    """How a network of another VP schedule predicts the noise at each timestep of the linear VP schedule.

    Two variance-preserving schedules have the same x(t) where their abar agree. So the network is asked at the
    timestep, interpolated in the logarithm of the signal-to-noise ratio, at which its abar is ours. Levels beyond
    its own range are asked for at its nearest timestep.

    Args:
        alphas_cumprod: (T',) float64, the network's abar, falling.
        prediction: ``epsilon``; ``v_prediction``, v = sqrt(abar) noise - sqrt(1 - abar) x(0) (Salimans & Ho 2022); or
            ``sample``, x(0).
        levels: abar of the timesteps; by default the linear VP schedule's.
    """
    theirs = np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)
    steps = np.arange(len(theirs), dtype=np.float64)
    result = []
    for abar in map(LINEAR_VP.alpha_bar, range(LINEAR_VP.T)) if levels is None else levels:
        label = float(np.interp(-math.log(abar / (1.0 - abar)), -theirs, steps))
        signal, noise = math.sqrt(abar), math.sqrt(1.0 - abar)
        skip, out = {
            "epsilon": (0.0, 1.0),
            "v_prediction": (noise, signal),
            "sample": (1.0 / noise, -signal / noise),
        }[prediction]
        result.append(Conditioning(1.0, label, skip, out))
    return result


def match_consistency(sigma_data: float, sigma_min: float) -> list[Conditioning]:
    """How a consistency model F predicts the noise at each timestep of the linear VP schedule (Song et al. 2023).

    Of y = x(t) / sqrt(abar), at noise level sigma = sqrt((1 - abar) / abar), it predicts x(0) as c_skip y + c_out
    F(y / sqrt(sigma^2 + s^2); 250 ln(sigma)), with c_skip = s^2 / ((sigma - sigma_min)^2 + s^2), c_out = (sigma -
    sigma_min) s / sqrt(sigma^2 + s^2) and s = ``sigma_data``; the noise is (y - x(0)) / sigma.
    """
    result = []
    for t in range(LINEAR_VP.T):
        abar = LINEAR_VP.alpha_bar(t)
        sigma, root = math.sqrt((1.0 - abar) / abar), math.sqrt(abar)
        spread = math.hypot(sigma, sigma_data)
        skip = sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2)
        out = (sigma - sigma_min) * sigma_data / spread
        scale, label = 1.0 / (root * spread), 250.0 * math.log(sigma)
        result.append(Conditioning(scale, label, (1.0 - skip) / (sigma * root), -out / sigma))
    return result


def _conditioning(folder: Path) -> list[Conditioning] | None:
    """How the network is asked, by its scheduler's config; None for a network that predicts the noise on our schedule.

    What a config leaves out has the default of the scheduler's class, as in diffusers.
    """
    files = [folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"]
    file = next((file for file in files if _is_there(file)), None)
    if file is None:
        return None
    given = _read_json(file)
    name = str(given.get("_class_name", "DDPMScheduler"))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise CheckpointError(f"{file.name}: _class_name is {name!r:.60}, which is no scheduler of diffusers")
    settings = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items()} | given
    if name == "CMStochasticIterativeScheduler":
        data, least = (_positive(settings, key, file) for key in ("sigma_data", "sigma_min"))
        return match_consistency(data, least)
    if name in OTHER_KINDS or "beta_schedule" not in settings:
        raise CheckpointError(
            f"{file.name}: {name} is no variance-preserving schedule of noise, v or sample prediction"
        )
    if settings.get("use_flow_sigmas"):
        raise CheckpointError(f"{file.name}: use_flow_sigmas is {settings['use_flow_sigmas']!r:.60}; accepted: false")
    if settings.get("timestep_type", "discrete") != "discrete":  # labels that are no timesteps
        raise CheckpointError(f"{file.name}: timestep_type is {settings['timestep_type']!r:.60}; accepted: discrete")
    if all(settings.get(key, value) == value for key, value in OURS.items()):
        return None
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        accepted = ", ".join(PREDICTIONS)
        raise CheckpointError(f"{file.name}: prediction_type is {prediction!r:.60}; accepted: {accepted}")
    T: Any = settings["num_train_timesteps"]
    if type(T) is not int or not 1 < T <= LARGEST_T:
        raise CheckpointError(f"{file.name}: num_train_timesteps is {T!r:.60}; accepted: 2..{LARGEST_T}")
    return match_levels(_alphas_cumprod(cls, given, file), prediction)


def _alphas_cumprod(cls: Any, given: Mapping[str, Any], file: Path) -> np.ndarray:
    """The abar of a scheduler, as diffusers itself computes them, within (0, 1)."""
    try:
        scheduler = cls.from_config(dict(given))
        abar = scheduler.alphas_cumprod.double().numpy()
    except Exception as error:  # a config may hold anything
        raise CheckpointError(f"{file.name}: {cls.__name__} cannot be made: {one_line(error, 120)}") from None
    # Of a schedule that ends in pure noise, abar is 0 at its last timestep.
    falls = len(abar) > 1 and np.isfinite(abar).all() and (np.diff(abar) < 0).all()
    if not falls or abar[-1] < 0.0 or abar[0] >= 1.0:
        raise CheckpointError(f"{file.name}: alphas_cumprod does not fall from below 1 to at least 0")
    return np.maximum(abar, 1e-20)


def _positive(settings: Mapping[str, Any], key: str, file: Path) -> float:
    value: Any = settings.get(key)
    if type(value) not in (int, float) or not 0.0 < value < math.inf:
        raise CheckpointError(f"{file.name}: {key} is {value!r:.60}; accepted: a number above 0")
    return float(value)


def _is_there(file: Path) -> bool:
    """Whether a folder has such an entry; a folder or a broken link in the place of a file is not passed over."""
    return file.exists() or file.is_symlink()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        size = regular_file(file).stat().st_size
    except CheckpointError as error:
        raise CheckpointError(f"{file.name} {error}") from None
    if size > LARGEST_CONFIG:
        raise CheckpointError(f"{file.name} is {size} bytes; accepted: up to {LARGEST_CONFIG}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} cannot be read as JSON: {one_line(error, 120)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.name} cannot be read as JSON: holds no keys")
    return content
