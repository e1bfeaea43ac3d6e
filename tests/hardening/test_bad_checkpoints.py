"""Bad checkpoints of every format: each is refused at once, on one line that names it, and nothing in it is run."""

import copy
import functools
import io
import itertools
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.models.classifiers import build_classifier
from hetpure.models.convert import convert
from hetpure.models.denoisers import FORMATS, build_denoiser
from hetpure.models.networks import load_network
from tests.models.layouts import layout, weights
from tests.models.persistence import importable, save_network
from tests.models.test_malicious_files import Bait, baits
from tests.toys import TinyNetwork, tiny_unet

State = dict[str, Any]
NETWORK = "tests.toys:TinyNetwork"
LOADERS: dict[str, Callable[[str], Any]] = {
    "classifier": lambda path: build_classifier(NETWORK, path),
    "purifier": lambda path: load_network(NETWORK, path, {}, "purifier.network"),
    "convert": lambda path: convert(path, Path(path).parent / "converted", "ddpm"),
    **{format: functools.partial(build_denoiser, format=format) for format in FORMATS},
}
SAVED = [name for name in LOADERS if name not in ("diffusers", "diffusers_null_class", "score_sde_matched")]
"""The loaders of files, each reader once."""

SECONDS, MEGABYTES = 5.0, 500
"""What a refusal may cost on a busy machine; it takes hundredths of a second, and a few megabytes."""


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def assert_refused(loader: str, path: Path) -> None:
    before, start = peak(), time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        LOADERS[loader](str(path))
    message = str(caught.value)
    assert time.perf_counter() - start < SECONDS and peak() - before < MEGABYTES
    assert str(path) in message and "\n" not in message and len(message) - len(str(path)) <= 300, message
    assert not (path.parent / "ran").exists() and not (path.parent / "converted").exists()


@functools.cache
def _good(loader: str) -> State:
    if loader in ("classifier", "purifier"):
        return TinyNetwork().state_dict()
    return weights(layout({"convert": "ddpm"}.get(loader, loader))["shapes"])


def good(loader: str) -> State:
    return dict(_good(loader))


def save(loader: str, state: State, folder: Path) -> Path:
    """Written as the loader's own files are."""
    file = folder / "n.pt"
    if loader == "edm":
        save_network(file, state, "EDMPrecond", sigma_data=0.5)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("loader", SAVED)
def test_the_undamaged_file_loads(loader: str, tmp_path: Path) -> None:
    LOADERS[loader](str(save(loader, good(loader), tmp_path)))


def spoiled(value: Tensor, where: int, number: float) -> Tensor:
    value = value.clone()
    value.view(-1)[where] = number
    return value


def quantized(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "nan": lambda v: torch.full_like(v, float("nan")),
    "one nan": lambda v: spoiled(v, -1, float("nan")),
    "infinite": lambda v: spoiled(v, 0, float("inf")),
    "minus infinity": lambda v: spoiled(v, 0, -float("inf")),
    "beyond float32": lambda v: spoiled(v.double(), 0, 1e300),
    "complex": lambda v: v.to(torch.complex64),
    "integer": lambda v: v.long(),
    "byte": lambda v: v.to(torch.uint8),
    "bool": lambda v: v > 0,
    "float8": lambda v: v.to(torch.float8_e4m3fn),
    "sparse": lambda v: v.to_sparse(),
    "compressed": lambda v: v.flatten(1).to_sparse_csr(),
    "meta": lambda v: v.to("meta"),
    "quantized": quantized,
    "expanded": lambda v: torch.zeros(1).expand(v.shape),
    "expanded from rows": lambda v: v[:1].expand(v.shape),
    "of 10^12 numbers": lambda v: torch.zeros(1).expand(10**12),
    "of 10^18 numbers": lambda v: torch.zeros(1).expand(10**9, 10**9),
    "empty": lambda v: torch.zeros(0),
    "of no rows": lambda v: v[:0],
    "a number": lambda v: v.sum(),
    "a row more": lambda v: torch.cat([v, v[:1]]),
    "transposed": lambda v: v.transpose(0, 1)[:, :-1],
    "none": lambda v: None,
    "a float": lambda v: 0.5,
    "a list": lambda v: v.tolist(),
    "a string": lambda v: "weights",
    "a dict": lambda v: {"weight": v},
    "nested tensor": lambda v: torch.nested.nested_tensor([v[0], v[1]]),
}
SOME = ("nan", "integer", "expanded", "sparse", "meta", "quantized", "of 10^12 numbers", "none")


def first(state: State) -> str:
    return next(name for name, value in state.items() if value.ndim == 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        *(("classifier", kind) for kind in TENSORS),
        *(("ddpm", kind) for kind in SOME),
        *((loader, kind) for loader in SAVED if loader not in ("classifier", "ddpm") for kind in SOME[:3]),
    ],
)
def test_a_bad_tensor(loader: str, kind: str, tmp_path: Path) -> None:
    state = good(loader)
    bad = TENSORS[kind](state[first(state)])
    if loader == "edm" and not isinstance(bad, Tensor):
        bad = torch.zeros(())
    try:
        file = save(loader, {**state, first(state): bad}, tmp_path)
    except (NotImplementedError, RuntimeError) as error:  # a plain pickle knows no such tensor
        assert loader == "edm"
        pytest.skip(str(error))
    assert_refused(loader, file)


STATES: dict[str, Callable[[State], Any]] = {
    "a tuple": lambda s: (1, 2),
    "no tensors": lambda s: {},
    "none": lambda s: None,
    "a number": lambda s: 7,
    "a string": lambda s: "weights",
    "a tensor": lambda s: torch.zeros(3),
    "a list of tensors": lambda s: list(s.values()),
    "integer names": lambda s: dict(enumerate(s.values())),
    "one integer name": lambda s: {**s, 3: torch.zeros(1)},
    "a tuple's name": lambda s: {**s, (1, "x"): torch.zeros(1)},
    "a long name": lambda s: {**s, "x" * 100_000: torch.zeros(1)},
    "a name of lines": lambda s: {**s, "a\nb\r\nc": torch.zeros(1)},
    "one missing": lambda s: {k: v for k, v in s.items() if k != first(s)},
    "all but one missing": lambda s: {first(s): s[first(s)]},
    "one too many": lambda s: {**s, "extra.weight": torch.zeros(2)},
    "two names for one": lambda s: {**s, f"module.{first(s)}": s[first(s)] + 1},
    "empty state_dict": lambda s: {"state_dict": {}},
    "list as state_dict": lambda s: {"state_dict": list(s.values())},
    "no model": lambda s: {"model": None, "ema": {}},
    "shadow of nothing": lambda s: {"model": s, "ema": {"shadow_params": [None] * len(s)}},
    "a checkpoint of numbers": lambda s: [1, 2, 3, 4, 5],
}


@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        *(("classifier", kind) for kind in STATES if kind != "shadow of nothing"),
        *(("score_sde", kind) for kind in STATES),
        *((loader, kind) for loader in ("ddpm", "guided_diffusion", "edm") for kind in list(STATES)[::4]),
    ],
)
def test_a_bad_state_dict(loader: str, kind: str, tmp_path: Path) -> None:
    torch.save(STATES[kind](good(loader)), tmp_path / "n.pt")
    assert_refused(loader, tmp_path / "n.pt")


def claiming(numel: int) -> bytes:
    """A torch.save file whose tensor says it has so many numbers, in a storage of as many."""
    content = io.BytesIO()
    torch.save({"w": torch.zeros(7)}, content)
    result = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(result, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert data.count(b"K\x07") == 2
                data = data.replace(b"K\x07", b"\x8a\x08" + struct.pack("<q", numel))
            new.writestr(entry.filename, data)
    return result.getvalue()


def bomb() -> bytes:
    """A torch.save file that is compressed."""
    content, result = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(7)}, content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, data if entry.filename.endswith("pkl") else bytes(2_000_000))
    return result.getvalue()


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, data in files.items():
            opened.writestr(f"n/{name.replace('_', '.')}", data)
    return content.getvalue()


BYTES: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "one byte": lambda: b"\x80",
    "text": lambda: b"no network here",
    "a pointer of git-lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a web page": lambda: b"<html>404</html>",
    "zeros": lambda: bytes(10_000),
    "a tuple": lambda: pickle.dumps((1, 2)),
    "a tuple, protocol 0": lambda: pickle.dumps((1, 2), 0),
    "a tuple, protocol 2": lambda: pickle.dumps((1, 2), 2),
    "lists in lists": lambda: b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "a number for an object": lambda: b"\x80\x02]r" + struct.pack("<I", 2**31) + b".",
    "a number for an object, in text": lambda: b"\x80\x02]p9999999999\n.",
    "a string of 10^12": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b".",
    "an integer of a megabyte": lambda: b"I" + b"9" * 1_000_000 + b"\n.",
    "10^12 numbers": lambda: claiming(10**12),
    "less than no numbers": lambda: claiming(-5),
    "compressed": bomb,
    "an archive of nothing": archive,
    "an archive of text": lambda: archive(data_pkl=b"text", version=b"3"),
    "an archive of lists": lambda: archive(data_pkl=b"\x80\x02" + b"]" * 20_000 + b".", version=b"3"),
}


@pytest.mark.parametrize("loader", ["classifier", "edm"])
@pytest.mark.parametrize("kind", BYTES)
def test_bad_bytes(loader: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "n.pt").write_bytes(BYTES[kind]())
    assert_refused(loader, tmp_path / "n.pt")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", ["folder", "loop", "broken link", "pipe", "device"])
def test_what_is_no_file(loader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "n.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "broken link": tmp_path / "gone", "device": "/dev/zero"}[kind])
    assert_refused(loader, path)


@pytest.mark.parametrize("loader", ["classifier", "purifier"])
@pytest.mark.parametrize("kind", sorted(baits(Path("x"))))
def test_bait(loader: str, kind: str, tmp_path: Path) -> None:
    bait = baits(tmp_path / "ran")[kind]
    for number, content in enumerate((bait, {"state_dict": bait}, {**good(loader), "extra": bait})):
        torch.save(content, tmp_path / f"{number}.pt")
        assert_refused(loader, tmp_path / f"{number}.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(bait))
    assert_refused(loader, tmp_path / "bare.pt")


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str = "F32", shape: Any = (2,), start: int = 0, end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "a length alone": lambda: struct.pack("<Q", 100),
    "a length of 2^63": lambda: safetensors({}, length=2**63),
    "a length beyond the file": lambda: safetensors({"w": tensor()}, bytes(8), length=10_000),
    "no JSON": lambda: safetensors(b"{nothing", bytes(8)),
    "a list": lambda: safetensors([1, 2]),
    "no tensors": lambda: safetensors({}),
    "deep": lambda: safetensors(b'{"w":' * 100_000 + b"1" + b"}" * 100_000),
    "no UTF-8": lambda: safetensors(b'{"\xff\xfe": 1}'),
    "data beyond the file": lambda: safetensors({"w": tensor(end=80, shape=[20])}, bytes(8)),
    "10^12 numbers": lambda: safetensors({"w": tensor(shape=[10**12], end=4 * 10**12)}, bytes(8)),
    "10^12 numbers of 8 bytes": lambda: safetensors({"w": tensor(shape=[10**12])}, bytes(8)),
    "10^40 numbers": lambda: safetensors({"w": tensor(shape=[10**18, 10**18, 10**4])}, bytes(8)),
    "less than no numbers": lambda: safetensors({"w": tensor(shape=[-2])}, bytes(8)),
    "backwards": lambda: safetensors({"w": tensor(start=8, end=0)}, bytes(8)),
    "one on another": lambda: safetensors({"w": tensor(), "v": tensor(start=4, end=12)}, bytes(12)),
    "a hole": lambda: safetensors({"w": tensor(start=8, end=16)}, bytes(16)),
    "more data": lambda: safetensors({"w": tensor()}, bytes(800)),
    "no such dtype": lambda: safetensors({"w": tensor("Q99")}, bytes(8)),
    "a shape of text": lambda: safetensors({"w": tensor(shape="two")}, bytes(8)),
    "a string": lambda: safetensors({"w": "tensor"}),
    "a pickle": lambda: pickle.dumps((1, 2)),
}


@pytest.mark.parametrize("loader", ["classifier", "ddpm", "edm"])
@pytest.mark.parametrize("kind", HEADERS)
def test_a_bad_safetensors_file(loader: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "n.safetensors").write_bytes(HEADERS[kind]())
    assert_refused(loader, tmp_path / "n.safetensors")


DENSE = ("nan", "integer", "bool", "float8", "empty", "a row more")


@pytest.mark.parametrize("kind", DENSE)
def test_a_bad_tensor_in_safetensors(kind: str, tmp_path: Path) -> None:
    for loader in ("classifier", "ddpm"):
        state = good(loader)
        save_file({**state, first(state): TENSORS[kind](state[first(state)])}, tmp_path / "n.safetensors")
        assert_refused(loader, tmp_path / "n.safetensors")


# Folders of diffusers.


@functools.cache
def _folder() -> tuple[State, State, State]:
    unet: Any = tiny_unet()
    scheduler: Any = DDPMScheduler()
    return json.loads(unet.to_json_string()), unet.state_dict(), json.loads(scheduler.to_json_string())


def write_folder(folder: Path, config: State | None = None, state: State | None = None) -> None:
    own, weights, scheduler = _folder()
    (folder / "config.json").write_text(json.dumps({**own, **(config or {})}))
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file({k: v.contiguous() for k, v in (state or weights).items()}, folder / WEIGHTS)


WEIGHTS, PICKLE = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


def test_the_undamaged_folder_loads(tmp_path: Path) -> None:
    write_folder(tmp_path)
    build_denoiser(str(tmp_path))
    for spelling in ({"sample_size": [8, 8]}, {"layers_per_block": 1, "unknown": 3}):
        write_folder(tmp_path, spelling)
        assert build_denoiser(str(tmp_path)).image_size == 8


CONFIGS: list[tuple[str, Any]] = [
    ("_class_name", "UNet2DConditionModel"),
    ("_class_name", ["UNet2DModel"]),
    ("sample_size", []),
    ("sample_size", [8]),
    ("sample_size", [8, 16]),
    ("sample_size", [8.0, 8.0]),
    ("sample_size", "large"),
    ("sample_size", -8),
    ("sample_size", True),
    ("sample_size", {"height": 8}),
    ("in_channels", 0),
    ("in_channels", 10**9),
    ("in_channels", "1"),
    ("in_channels", 1.0),
    ("in_channels", None),
    ("out_channels", 3),
    ("out_channels", 10**30),
    ("block_out_channels", []),
    ("block_out_channels", 8),
    ("block_out_channels", [8, 10**12]),
    ("block_out_channels", [1_000_000, 1_000_000]),
    ("block_out_channels", [0, 0]),
    ("block_out_channels", [8, -16]),
    ("block_out_channels", [8, "16"]),
    ("block_out_channels", [8] * 100_000),
    ("block_out_channels", [[8], [16]]),
    ("layers_per_block", 10**9),
    ("layers_per_block", 10**6),
    ("layers_per_block", 1000),
    ("layers_per_block", 2),
    ("layers_per_block", 0),
    ("layers_per_block", -1),
    ("layers_per_block", 1.5),
    ("layers_per_block", [1, 1]),
    ("down_block_types", ["DownBlock2D"]),
    ("down_block_types", "DownBlock2D"),
    ("down_block_types", ["os.system", "DownBlock2D"]),
    ("down_block_types", ["CrossAttnDownBlock2D", "DownBlock2D"]),
    ("up_block_types", ["UpBlock2D"] * 1000),
    ("up_block_types", None),
    ("mid_block_type", "__class__"),
    ("norm_num_groups", 0),
    ("norm_num_groups", 7),
    ("norm_num_groups", 10**9),
    ("norm_eps", float("nan")),
    ("norm_eps", float("inf")),
    ("norm_eps", -1.0),
    ("norm_eps", "small"),
    ("attention_head_dim", 0),
    ("attention_head_dim", "all"),
    ("downsample_padding", 10**6),
    ("downsample_padding", -1),
    ("mid_block_scale_factor", 0),
    ("mid_block_scale_factor", float("nan")),
    ("freq_shift", float("inf")),
    ("freq_shift", "one"),
    ("act_fn", "no_such"),
    ("act_fn", 3),
    ("act_fn", "x" * 1_000_000),
    ("dropout", "much"),
    ("time_embedding_type", "fourier"),
    ("time_embedding_type", "learned"),
    ("time_embedding_type", 3),
    ("time_embedding_dim", 10**9),
    ("num_class_embeds", 10),
    ("class_embed_type", "timestep"),
    ("flip_sin_to_cos", "yes"),
    ("add_attention", 2),
    ("resnet_time_scale_shift", "scale_shift"),
    ("resnet_time_scale_shift", "spatial"),
    ("upsample_type", None),
]


@pytest.mark.parametrize(("key", "value"), CONFIGS, ids=lambda value: repr(value)[:30])
def test_a_bad_config(key: str, value: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, {key: value})
    assert_refused("diffusers", tmp_path)


DEEP = '{"a":' * 200_000 + "1" + "}" * 200_000
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "deep": DEEP.encode(),
    "deep lists": b"[" * 200_000,
    "a list": b"[1, 2]",
    "a string": b'"UNet2DModel"',
    "null": b"null",
    "no UTF-8": b'{"\xff": 1}',
    "a number of 10,000 digits": b'{"sample_size": ' + b"9" * 10_000 + b"}",
    "cut off": b'{"sample_size": ',
    "20 MB": b" " * 20_000_000,
}


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json", "model_index.json", f"{WEIGHTS}.index.json"])
@pytest.mark.parametrize("kind", TEXTS)
def test_bad_json(file: str, kind: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / file).write_bytes(TEXTS[kind])
    assert_refused("diffusers", tmp_path)


@pytest.mark.parametrize(
    "file", ["config.json", "scheduler_config.json", "model_index.json", f"{WEIGHTS}.index.json", WEIGHTS]
)
@pytest.mark.parametrize("kind", ["folder", "loop", "broken link", "pipe", "device"])
def test_no_file_in_a_files_place(file: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder)
    torch.save(_folder()[1], folder / PICKLE)
    path = folder / file
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "broken link": tmp_path / "gone", "device": "/dev/zero"}[kind])
    assert_refused("diffusers", folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_start", float("nan")),
        ("beta_start", "small"),
        ("beta_end", 1e308),
        ("beta_end", 1.5),
        ("beta_schedule", ["linear"]),
        ("beta_schedule", "x" * 100_000),
        ("prediction_type", ["epsilon"]),
        ("prediction_type", None),
        ("num_train_timesteps", 10**12),
        ("num_train_timesteps", 50.0),
        ("num_train_timesteps", True),
        ("trained_betas", "none"),
        ("trained_betas", [[0.1]]),
        ("trained_betas", {"a": 1}),
        ("_class_name", "__builtins__"),
        ("_class_name", 5),
        ("_class_name", "x" * 100_000),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_bad_scheduler(key: str, value: Any, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**_folder()[2], key: value}))
    assert_refused("diffusers", tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("form", "kind"), [*((WEIGHTS, kind) for kind in DENSE), *((PICKLE, kind) for kind in SOME), (PICKLE, "one nan")]
)
def test_a_bad_tensor_in_a_folder(form: str, kind: str, tmp_path: Path) -> None:
    state = dict(_folder()[1])
    state[first(state)] = TENSORS[kind](state[first(state)].contiguous())
    write_folder(tmp_path, state=state if form == WEIGHTS else None)
    if form == PICKLE:
        (tmp_path / WEIGHTS).unlink()
        torch.save(state, tmp_path / PICKLE)
    assert_refused("diffusers", tmp_path)


@pytest.mark.parametrize("form", [WEIGHTS, PICKLE])
def test_a_weight_too_many(form: str, tmp_path: Path) -> None:
    state = {**_folder()[1], "extra.weight": torch.zeros(1)}
    write_folder(tmp_path, state=state)
    if form == PICKLE:
        (tmp_path / WEIGHTS).unlink()
        torch.save(state, tmp_path / PICKLE)
    with pytest.raises(ConfigError, match=r"does not fit the network: unexpected extra\.weight$"):
        build_denoiser(str(tmp_path))


def test_any_missing_weight_is_named(tmp_path: Path) -> None:
    for name in list(_folder()[1])[::30]:
        write_folder(tmp_path, state={k: v for k, v in _folder()[1].items() if k != name})
        with pytest.raises(ConfigError, match=rf"denoiser\.path: .*does not fit the network: missing {name}$"):
            build_denoiser(str(tmp_path))


@pytest.mark.parametrize("kind", sorted(baits(Path("x"))))
def test_bait_in_a_folder(kind: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    torch.save({**_folder()[1], "extra": baits(tmp_path / "ran")[kind]}, tmp_path / PICKLE)
    assert_refused("diffusers", tmp_path)
    (tmp_path / PICKLE).write_bytes(pickle.dumps(baits(tmp_path / "ran")[kind]))
    assert_refused("diffusers", tmp_path)


def write_parts(folder: Path, index: Any = None, parts: int = 2) -> dict[str, str]:
    """The weights in several files, and the index of them."""
    write_folder(folder)
    (folder / WEIGHTS).unlink()
    state = _folder()[1]
    where = {name: f"part-{number % parts}.safetensors" for number, name in enumerate(state)}
    for file in set(where.values()):
        save_file({k: v.contiguous() for k, v in state.items() if where[k] == file}, folder / file)
    content = {"metadata": {}, "weight_map": where} if index is None else index
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))
    return where


def test_weights_in_several_files_load(tmp_path: Path) -> None:
    write_parts(tmp_path)
    state = build_denoiser(str(tmp_path)).state_dict()
    assert all(torch.equal(state[f"unet.{name}"], value) for name, value in _folder()[1].items())


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": {}},
        {"weight_map": ["part-0.safetensors"]},
        {"weight_map": {"w": 3}},
        {"weight_map": {"w": "../n.safetensors"}},
        {"weight_map": {"w": "../../../../etc/passwd"}},
        {"weight_map": {"w": "/etc/passwd"}},
        {"weight_map": {"w": ".."}},
        {"weight_map": {"w": ""}},
        {"weight_map": {"w": "gone.safetensors"}},
        {"weight_map": {"w": "part-0.safetensors"}},
        {"weight_map": {"w": "config.json"}},
        {"weight_map": {str(n): f"{n}.bin" for n in range(10_000)}},
    ],
    ids=lambda index: repr(index)[:50],
)
def test_a_bad_index(index: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    save_file({k: v.contiguous() for k, v in _folder()[1].items()}, tmp_path / "n.safetensors")
    write_parts(tmp_path / "folder", index)
    assert_refused("diffusers", tmp_path / "folder")


def test_a_weight_in_two_files(tmp_path: Path) -> None:
    where = write_parts(tmp_path)
    name = next(name for name in where if where[name] == "part-0.safetensors")
    state = {k: v.contiguous() for k, v in _folder()[1].items() if where[k] == "part-1.safetensors"}
    save_file({**state, name: _folder()[1][name] + 1}, tmp_path / "part-1.safetensors")
    assert_refused("diffusers", tmp_path)


# What `hetpure convert` wrote, and network pickles.


@functools.cache
def _converted(folder: str) -> tuple[State, dict[str, str]]:
    from safetensors import safe_open

    source, target = Path(folder) / "n.pkl", Path(folder) / "good.safetensors"
    save_network(source, weights(layout("edm")["shapes"]), "EDMPrecond", sigma_data=0.5)
    convert(str(source), target, "edm")
    with safe_open(target, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


GEOMETRIES: list[tuple[str, Any]] = [
    ("image_channels", 0),
    ("image_channels", "3"),
    ("image_channels", 10**12),
    ("image_size", -1),
    ("image_size", [16]),
    ("channels", 0),
    ("channels", 10**9),
    ("channels", 1.5),
    ("widths", []),
    ("widths", 8),
    ("widths", [10**9]),
    ("widths", [8] * 100_000),
    ("blocks", 10**9),
    ("blocks", 0),
    ("blocks", True),
    ("attention", []),
    ("attention", [10**9, 10**9]),
    ("attention", "no"),
    ("unknown", 3),
]


@pytest.mark.parametrize(("key", "value"), GEOMETRIES, ids=lambda value: repr(value)[:30])
def test_a_bad_geometry(key: str, value: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    state, header = _converted(str(tmp_path_factory.getbasetemp()))
    geometry = {**json.loads(header["geometry"]), key: value}
    save_file(state, tmp_path / "n.safetensors", {**header, "geometry": json.dumps(geometry)})
    assert_refused("edm", tmp_path / "n.safetensors")


CONVERSIONS: dict[str, Callable[[State, dict[str, str]], tuple[State, dict[str, str]]]] = {
    "no geometry": lambda s, h: (s, {"format": h["format"]}),
    "deep geometry": lambda s, h: (s, {**h, "geometry": DEEP}),
    "no conditioning": lambda s, h: ({k: v for k, v in s.items() if k != "conditioning"}, h),
    "conditioning of 999 rows": lambda s, h: ({**s, "conditioning": s["conditioning"][1:]}, h),
    "conditioning of three columns": lambda s, h: ({**s, "conditioning": s["conditioning"][:, :3].contiguous()}, h),
    "conditioning of one number": lambda s, h: ({**s, "conditioning": torch.zeros(())}, h),
    "conditioning of nan": lambda s, h: ({**s, "conditioning": s["conditioning"] * float("nan")}, h),
    "a weight of nan": lambda s, h: ({**s, first(s): s[first(s)] * float("nan")}, h),
    "an integer weight": lambda s, h: ({**s, first(s): s[first(s)].long()}, h),
    "one missing": lambda s, h: ({k: v for k, v in s.items() if k != first(s)}, h),
    "one too many": lambda s, h: ({**s, "extra": torch.zeros(1)}, h),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_a_bad_conversion(kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    state, header = CONVERSIONS[kind](*copy.copy(_converted(str(tmp_path_factory.getbasetemp()))))
    save_file(state, tmp_path / "n.safetensors", header)
    for format in ("edm", "score_sde"):
        assert_refused(format, tmp_path / "n.safetensors")


def modules(links: Callable[[list[Any]], None]) -> Any:
    """Network modules that hold each other."""
    made = [torch.nn.ModuleDict() for _ in range(40)]
    links(made)
    return {"ema": made[0]}


def inside_itself(made: list[Any]) -> None:
    made[0]._modules["model"] = made[0]


def doubled(made: list[Any]) -> None:
    for outer, inner in itertools.pairwise(made):
        outer._modules["model"] = outer._modules["other"] = inner


@pytest.mark.parametrize("links", [inside_itself, doubled])
def test_modules_without_end(links: Callable[[list[Any]], None], tmp_path: Path) -> None:
    from tests.models.persistence import Persistent

    made = modules(links)["ema"]
    with importable(), (tmp_path / "n.pkl").open("wb") as file:
        outer = Persistent("EDMPrecond", "", sigma_data=0.5)
        inner = Persistent("SongUNet", "")
        inner._modules["enc"] = made
        outer._modules["model"] = inner
        pickle.dump({"ema": outer}, file)
    assert_refused("edm", tmp_path / "n.pkl")


def test_the_limits_would_notice(tmp_path: Path) -> None:
    """A bait works, and a loader that raises anything else fails the harness."""
    pickle.loads(pickle.dumps(Bait(Path.touch, tmp_path / "ran")))
    assert (tmp_path / "ran").exists()
    with pytest.raises(AssertionError):
        assert_refused("ddpm", tmp_path / "gone.pt")
