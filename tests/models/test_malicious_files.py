"""Nothing in a checkpoint file is run, whatever it holds, and what is refused is refused on one line."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hetpure.errors import ConfigError
from hetpure.models import inert_pickle
from hetpure.models.convert import convert
from hetpure.models.denoisers import FORMATS, build_denoiser
from tests.models.layouts import layout, weights
from tests.models.persistence import Persistent, importable, save_network, storage_pickle

OTHERS = [name for name in FORMATS if not name.startswith("diffusers")]


class Bait:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def baits(mark: Path) -> dict[str, Any]:
    shell, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    return {
        "method": Bait(Path.touch, mark),
        "shell": Bait(os.system, shell),
        "eval": Bait(eval, code),
        "getattr": Bait(getattr, Path, "touch"),
        "import": Bait(__import__, "antigravity"),
        "inside": {"ema": [Bait(exec, code)]},
        "nested": Bait(pickle.loads, pickle.dumps(Bait(exec, code))),
        "torch": Bait(torch.load, str(mark)),
    }


def assert_refused(file: Path, format: str, match: str | None = None) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        build_denoiser(str(file), format)
    message = str(caught.value)
    assert message.startswith("denoiser.path") and str(file) in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("format", OTHERS)
@pytest.mark.parametrize("kind", sorted(baits(Path("x"))))
def test_no_code_is_run(tmp_path: Path, format: str, kind: str) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(baits(mark)[kind]))
    torch.save({"conv_in.weight": torch.zeros(1), "extra": baits(mark)[kind]}, tmp_path / "saved.pt")
    for file in ("bare.pt", "saved.pt"):
        assert_refused(tmp_path / file, format, "refused" if (format, file) == ("edm", "bare.pt") else None)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["method", "shell", "eval", "inside", "nested"])
def test_the_baits_work(tmp_path: Path, kind: str) -> None:
    pickle.loads(pickle.dumps(baits(tmp_path / "ran")[kind]))
    assert (tmp_path / "ran").exists()


def test_the_source_code_in_a_network_pickle_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    source = f"open({str(mark)!r}, 'w').close()"
    save_network(tmp_path / "n.pkl", weights(layout("edm")["shapes"]), "EDMPrecond", source, sigma_data=0.5)
    assert source.encode() in (tmp_path / "n.pkl").read_bytes()
    build_denoiser(str(tmp_path / "n.pkl"), "edm")
    assert not mark.exists()


def test_code_among_a_networks_attributes_is_refused(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "n.pkl"
    with importable():
        file.write_bytes(pickle.dumps({"ema": Persistent("VPPrecond", "", extra=Bait(Path.touch, mark))}))
    assert_refused(file, "edm", r"refused, it holds code \(pathlib\S*\)")
    assert not mark.exists()


def test_code_in_the_bytes_of_a_tensor_is_refused(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "n.pkl"
    for new in (True, False):
        content = io.BytesIO()
        torch.save(Bait(Path.touch, mark), content, _use_new_zipfile_serialization=new)
        file.write_bytes(storage_pickle(content.getvalue()))
        assert_refused(file, "edm", "refused")
        assert not mark.exists()
        pickle.loads(file.read_bytes())
        assert mark.exists(), "the bait does not work"
        mark.unlink()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("torch_utils.persistence", "sys"),
        ("builtins", "getattr"),
        ("torch.storage", "torch.load"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch.nn.modules.container", "Module"),
        ("tests.models.persistence", "Persistent"),
    ],
)
def test_names_are_admitted_whole_or_not_at_all(tmp_path: Path, module: str, name: str) -> None:
    text = [bytes([len(part)]) + part.encode() for part in (module, name)]
    (tmp_path / "n.pkl").write_bytes(b"\x80\x04\x8c" + text[0] + b"\x8c" + text[1] + b"\x93.")
    assert_refused(tmp_path / "n.pkl", "edm", "refused, it holds code")


def test_a_pickle_cannot_change_what_the_next_one_is_given(tmp_path: Path) -> None:
    # PROTO 4, two names, STACK_GLOBAL, (None, {"tensors": "gone"}), BUILD: would set an attribute of what they name.
    def name(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    for module, what in (
        ("torch.nn.modules.container", "ModuleDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
    ):
        known = name(module) + name(what) + b"\x93"
        (tmp_path / "n.pkl").write_bytes(b"\x80\x04" + known + b"N}" + name("tensors") + name("gone") + b"s\x86b.")
        assert_refused(tmp_path / "n.pkl", "edm", "cannot be read")
    assert not any(getattr(value, "tensors", None) == "gone" for value in vars(inert_pickle).values())
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(nn.ModuleDict({"a": nn.ModuleDict()})))
    assert inert_pickle.read_inert(tmp_path / "m.pkl").tensors() == {}


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    file = tmp_path / "n.pkl"
    content = pickle.dumps({"ema": torch.zeros(3)}, protocol=4)
    assert content.count(b"K\x03\x85") == 1  # the size, (3,)
    file.write_bytes(content.replace(b"K\x03\x85", b"K\xff\x85"))
    assert_refused(file, "edm", "cannot be read as a network pickle")


@pytest.mark.parametrize("format", OTHERS)
def test_damaged_files_are_refused(tmp_path: Path, format: str) -> None:
    file = tmp_path / "n.pt"
    if format == "edm":
        save_network(file, weights(layout("edm")["shapes"]), "EDMPrecond", sigma_data=0.5)
    else:
        torch.save(weights(layout(format.removesuffix("_matched"))["shapes"]), file)
    whole = file.read_bytes()
    for length in (0, 1, 10, 1000, len(whole) // 2, len(whole) - 1000, len(whole) - 10):
        file.write_bytes(whole[:length])
        assert_refused(file, format)
    file.write_text("no network here")
    assert_refused(file, format)
    file.unlink()
    assert_refused(file, format, "no such file")
    file.mkdir()
    assert_refused(file, format, "[Dd]irectory")


def test_damaged_conversions_are_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "n.pkl", tmp_path / "n.safetensors"
    save_network(source, weights(layout("edm")["shapes"]), "EDMPrecond", sigma_data=0.5)
    assert convert(str(source), target, "edm") == "edm"
    whole = target.read_bytes()
    for content in (whole[:-100], whole[:100], b"", whole.replace(b"hetpure DDPM++ 1", b"hetpure DDPM++ 9")):
        target.write_bytes(content)
        for format in ("edm", "score_sde"):
            assert_refused(target, format)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    values = {"ema": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones(2).half(), "list": [1, 2.5, None, "x", {3}]}
    (tmp_path / "n.pkl").write_bytes(pickle.dumps(values, protocol))
    found = inert_pickle.read_inert(tmp_path / "n.pkl")
    assert torch.equal(found["ema"], values["ema"]) and torch.equal(found["half"], values["half"])
    assert found["list"] == values["list"]
